"""The public class of a package: a model that predicts raw samples."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from featcache import encoders
from featcache.api.html import facts_table
from featcache.api.predictable import Predictable, Predicted
from featcache.api.predictions import UNSURE_BELOW, Predictions, joined
from featcache.api.run import Run, filled, share_of
from featcache.encoders.base import Encoder
from featcache.errors import EncoderError, Notice, SourceError, option
from featcache.extraction.forward import Forward
from featcache.location import Location
from featcache.packaging.check import checked, sample_of
from featcache.packaging.features import batches
from featcache.packaging.given import Given, Sample, as_list
from featcache.packaging.package import CHECK, RUN, Package
from featcache.plugins import code_in, require_trust
from featcache.sources import open_source
from featcache.sources.base import Source
from featcache.specs import Modality
from featcache.training.prediction import Predictor

SAMPLES = "samples"
"""The name of the split of samples in memory."""


class Model:
    """A frozen model with a run's projector and head: raw samples in, predictions out."""

    def __init__(self, path: Path, package: Package, forward: Forward, predictor: Predictor) -> None:
        self.path, self.package, self._forward, self.predictor = path, package, forward, predictor

    @classmethod
    def open(
        cls,
        place: str | os.PathLike[str] | Location,
        *,
        model: str | None = None,
        device: str = "auto",
        coverage: float | None = None,
        trust: bool = False,
    ) -> Model:
        """Open the package at `place`, with its frozen model.

        `model` names the frozen model, if it is at another place than where the package was made. Raises
        EncoderError, naming what is installed in another version, if it is not the same model. Raises
        TrainError if the labels of the run do not suffice to promise the `coverage`. The user's own code,
        such as an objective or a model `python:...`, is not run without `trust`.
        """
        folder = Location.of(place).path
        package, run = Package.read(folder), Run.open(folder / RUN, trust=trust)
        name = model or package.name_in(folder)
        require_trust(code_in([name] if model is None else []), folder, trust)
        predictor, encoder = run.predictor(device, coverage), encoders.load(name)
        opened = cls.of(folder, package, encoder, predictor)
        if note := checked(opened(sample_of(opened.modality)), folder / CHECK, package):
            warnings.warn(note, Notice, stacklevel=3)
        return opened

    @classmethod
    def of(cls, folder: Path, package: Package, encoder: Encoder, predictor: Predictor) -> Model:
        """Put a package together from its parts; raises EncoderError if it is not the same frozen model."""
        require_same_model(encoder, package, folder)
        encoder.spec = package.encoder  # under its first name
        device = predictor.learner.device
        encoder.to(device)
        return cls(
            folder,
            package,
            Forward(encoder, (package.layer,), package.tokens, package.amp, device),
            predictor,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.predictor.class_names

    @property
    def encoder(self) -> Encoder:
        """The frozen model."""
        return self._forward.encoder

    @property
    def modality(self) -> Modality:
        """The kind of a sample: image or text."""
        return cast(Modality, self.encoder.spec.modality)

    def __call__(
        self, samples: Sample | Sequence[Sample], *, unsure_below: float = UNSURE_BELOW
    ) -> Predictions:
        """Predict samples in memory: PIL images, arrays (H, W[, C]), bytes or paths of image files, or texts.

        One sample gives predictions of length one. A sample that cannot be read has the label None, and a
        warning says why. Raises SourceError for what is no sample, and EncoderError if the model fails.
        """
        found = [*self.parts(Given(as_list(samples), self.modality), SAMPLES, unsure_below)]
        failed = {name: reason for part in found for name, reason in part.failed.items()}
        if failed:
            first, reason = next(iter(failed.items()))
            what = f"{len(failed)} of {sum(len(part.predictions) for part in found)} samples"
            warnings.warn(f"{what} could not be read: {first}: {reason}", Notice, stacklevel=2)
        return joined([part.predictions for part in found])

    def parts(self, source: Source, split: str, unsure_below: float) -> Iterator[Predicted]:
        """Predict the samples of a source, a batch at a time, in their order."""
        below = share_of("unsure_below", unsure_below)
        if source.modality != self.modality:
            raise SourceError(
                f"the model cannot read the split `{split}`",
                got=f"{source.modality} samples",
                expected=f"{self.modality} samples, which {self.encoder.spec.name} reads",
            )
        truth, learned = _truth(self.predictor, source, split)
        for rows, failed, features in batches(self._forward, self.package, source):
            part = None if features is None else self.predictor.part_of(features)
            readable = np.array([row not in failed for row in rows], bool)
            numbers = np.arange(rows.start, rows.stop)
            predictions = Predictions(
                classes=self.classes,
                split=np.full(len(rows), split, object),
                id=np.array([source.ids[row] for row in rows], object),
                truth=truth[numbers],
                learned=learned[numbers],
                unsure_below=below,
                **filled(self.predictor, readable, part),
            )
            yield Predicted(predictions, {source.ids[row]: reason for row, reason in failed.items()})

    def open_source(self, place: str) -> dict[str, Predictable]:
        """Open a source of raw samples; return its splits to predict, by name."""
        return {
            name: Predictable(name, len(source), source.ids, partial(self.parts, source, name))
            for name, source in open_source(place).items()
        }

    def __repr__(self) -> str:
        differing = "".join(f"; {line}" for line in self.package.differing())
        return f"<Model {self.path}: {self.encoder.spec.name}, {len(self.classes)} classes{differing}>"

    def _repr_html_(self) -> str:
        facts = {"frozen model": self.encoder.spec.name, "classes": ", ".join(self.classes[:20])}
        return facts_table(f"Model {self.path}", facts)


def require_same_model(encoder: Encoder, package: Package, folder: Path) -> None:
    """Raise EncoderError with what differs unless the frozen model is the one of the package.

    Its name may differ, as it may have moved.
    """
    wanted = package.encoder
    same_name = encoder.spec.model_copy(update={"name": wanted.name})
    if (first := next(same_name.diff(wanted), None)) is None:
        return
    field, here, there = first
    versions = "; ".join(package.differing())
    raise EncoderError(
        f"the frozen model is not the one of the package {folder}: its `{field}` differs",
        got=here,
        expected=there,
        hint=f"versions that differ: {versions}"
        if versions
        else f"name it with {option('model', wanted.name)}",
    )


def _truth(predictor: Predictor, source: Source, split: str) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return (N,) names of classes or None, and (N,) True for ids that the run has learned from.

    If the run knows none of the classes, the names are not classes but folders of another kind.
    """
    known = {*source.class_names} & {*predictor.class_names}
    names = np.array([*source.class_names, None], object)
    truth = names[source.labels] if known else np.full(len(source), None, object)
    own = predictor.learned if split == predictor.learned_split else {}
    return truth, np.array([name in own for name in source.ids], bool)
