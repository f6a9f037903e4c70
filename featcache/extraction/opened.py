"""The data and the frozen model of an extraction, open in one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from featcache import encoders
from featcache.cache.layout import Unit
from featcache.config import did_you_mean
from featcache.devices import resolve
from featcache.encoders.base import Encoder
from featcache.errors import ConfigError
from featcache.extraction.feed import ViewDataset
from featcache.extraction.forward import Forward
from featcache.extraction.options import ExtractOptions
from featcache.extraction.understood import Understood, understand
from featcache.extraction.view_transform import ViewTransform
from featcache.extraction.walk import plan_batches
from featcache.location import remote
from featcache.sources import open_source
from featcache.sources.base import Digests, Source, digests_of, limit
from featcache.specs import NO_WEIGHTS


@dataclass(frozen=True)
class Opened:
    """The splits of a source and the model that reads them; an `ExtractionPlan` opens the same elsewhere."""

    source: str
    """As the user named it."""
    model: str
    options: ExtractOptions
    splits: Mapping[str, Source]
    """By name, each with as many samples as the options ask for."""
    forward: Forward
    understood: Understood
    """What was understood of the splits, for people."""
    _digests: dict[tuple[str, int], Digests] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, source: str | os.PathLike[str], model: str, options: ExtractOptions, device: str = "auto"
    ) -> Opened:
        """Open the source and load the model onto the device.

        Raises a FeatcacheError where one of them does not open, or the model reads other data.
        """
        whole = _open(os.fspath(source), options)
        splits = _asked(whole, options)
        encoder = encoders.load(model)
        _require_modality(encoder, splits)
        place = resolve(device)
        encoder.to(place)
        forward = Forward(encoder, options.layers, options.tokens, options.amp, place)
        understood = understand(os.fspath(source), whole, splits).warned(
            *_hollow(encoder), *getattr(encoder, "notes", ())
        )
        return cls(os.fspath(source), model, options, splits, forward, understood)

    @property
    def encoder(self) -> Encoder:
        """The frozen model."""
        return self.forward.encoder

    @property
    def first(self) -> Source:
        """The split that shapes and scales are measured on."""
        return next(iter(self.splits.values()))

    def digests(self, name: str, first: int = 0) -> Digests:
        """Return the digests of a split, and that of its `first` samples; they are computed once."""
        key = (name, len(self.splits[name]))
        if key not in self._digests:
            self._digests[key] = digests_of(self.splits[name], first)
        return self._digests[key]

    def dataset(
        self,
        source: Source,
        units: Iterable[Unit],
        batch_size: int,
        views: tuple[str, ...] | None = None,
        unreadable: Mapping[int, str] = MappingProxyType({}),
    ) -> ViewDataset:
        """Return the batches that hold the rows of `units`, in all views unless some are named.

        `unreadable` gives the reason by row of the split, for rows that are not to be read.
        """
        names = views or self.options.views.names()
        transform = ViewTransform(self.encoder.transform, self.first.modality, self.options.views)
        batches = list(plan_batches(units, len(names), batch_size))
        return ViewDataset(source, transform, names, batches, unreadable)


def _open(source: str, options: ExtractOptions) -> dict[str, Source]:
    if "://" in source:
        raise remote(source)
    labels = options.model_dump(include={"label_column", "label_from", "no_labels"})
    return open_source(source, **labels)


def _asked(found: Mapping[str, Source], options: ExtractOptions) -> dict[str, Source]:
    """Return the splits that the options ask for, with as many samples."""
    limits = options.limit if isinstance(options.limit, Mapping) else dict.fromkeys(found, options.limit)
    if options.split is not None:
        limits = {options.split: limits.get(options.split, options.limit)}
    for name in limits:
        if name not in found:
            raise ConfigError("the source has no such split", got=name, hint=did_you_mean(name, found))
    return {name: found[name] if n is None else limit(found[name], n) for name, n in limits.items()}


def _hollow(encoder: Encoder) -> Iterator[str]:
    """Warn of a model whose identity covers nothing but its source file."""
    if encoder.spec.weights == NO_WEIGHTS:
        yield (
            f"{encoder.spec.name} has no weights, and does not say which files it reads: its identity is its "
            f"source file alone; a list of paths `files` on the module or its factory adds theirs"
        )


def _require_modality(encoder: Encoder, splits: Mapping[str, Source]) -> None:
    for name, source in splits.items():
        if source.modality != encoder.spec.modality:
            raise ConfigError(
                f"the model cannot read the split `{name}`",
                got=f"a source of {source.modality} samples",
                expected=f"{encoder.spec.modality} samples, which {encoder.spec.name} reads",
            )
