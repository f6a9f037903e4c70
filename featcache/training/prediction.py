"""Predict with a finished run: calibrated, with novelty, and sets of classes of a promised coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Features
from featcache.cache.identity import require_same
from featcache.cache.reader import CacheReader
from featcache.loading.store import FeatureStore
from featcache.plugins import code_in, require_trust
from featcache.runs.run import RunFolder
from featcache.training.calibration import scaled
from featcache.training.conformal import calibrate, classes_within
from featcache.training.fitting import how_to_make
from featcache.training.held_out import load_held_out
from featcache.training.learner import Learner
from featcache.training.learners import load_learner
from featcache.training.novelty import Reference
from featcache.training.outputs import BATCH, Outputs, pooled

ROWS = 32 * BATCH
"""Rows to predict at a time at most, which limits the memory for the probabilities of all classes."""


@dataclass(frozen=True)
class Part:
    """Predictions of n rows of a split."""

    probabilities: NDArray[np.float64]
    """(n, C) calibrated probabilities: softmax(log q / T) with the temperature T of the run."""
    z: NDArray[np.float32]
    """(n, d) representations."""
    novelty: NDArray[np.float64] | None
    """(n,) from 0 to 1; None for a run without reference samples."""
    within: NDArray[np.bool_] | None
    """(n, C) True for the classes of the set; None if no coverage is asked for."""


@dataclass(frozen=True)
class Predictor:
    """The learner of a finished run, with all that its predictions need besides."""

    learner: Learner
    temperature: float
    reference: Reference | None
    threshold: float | None
    """The largest -log q of a class in the set; None if no coverage is asked for."""
    learned: Mapping[str, str | None]
    """The class of each sample whose label the run has learned from, by id; None if the run does not say."""
    learned_split: str
    """The split of these samples."""
    learned_spec: Mapping[str, Any] | None
    """The identity of that split; None if the run does not say."""
    promised: bool
    """False if the coverage is no promise, as the labels were not drawn at random."""

    @classmethod
    def open(
        cls, run: RunFolder, device: torch.device, coverage: float | None = None, *, trust: bool = False
    ) -> Self:
        """Load a finished run; only its folder is read.

        Raises TrainError if its labels do not suffice to promise the `coverage`. Raises ConfigError for a run
        with a copy of its own objective, which is code, without `trust`.
        """
        config = run.config()
        require_trust(code_in([config["objective"]]), run.path, trust)
        learner, result = load_learner(run, device), run.result() or {}
        names = learner.origin.class_names
        limit = None if coverage is None else calibrate(load_held_out(run), names, coverage, run.path)
        split = str(config["options"].get("data", {}).get("train", "train"))
        return cls(
            learner=learner,
            temperature=float(result.get("temperature", 1.0)),
            reference=Reference.load(run),
            threshold=limit,
            learned=run.labelled(),
            learned_split=split,
            learned_spec=config.get("splits", {}).get(split),
            promised=run.labels_at_random,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the C classes."""
        return self.learner.origin.class_names

    def require_fitting(self, cache: CacheReader) -> None:
        """Raise CacheMismatch with the differing field if the cache does not fit the learner."""
        wanted = self.learner.origin.features
        held = cache.features(wanted.layer)
        if not self.learner.reads_tokens:  # only the model and its pooled embedding must be the same
            held = wanted.model_copy(update={"encoder": held.encoder, "pooled": held.pooled})
        require_same(
            cache.path,
            held,
            wanted,
            by="in the cache of the run",
            hint=how_to_make(wanted),
        )

    def open_store(self, cache: CacheReader, split: str) -> FeatureStore:
        """Open a split of a cache at the layer that the learner reads."""
        return FeatureStore.open(cache, split, cache.features(self.learner.origin.features.layer).layer)

    def part(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Part:
        """Predict at most ROWS sorted rows of one view."""
        outputs = self.learner.predict(store, rows, view)
        return self._part(outputs, None if self.reference is None else pooled(store, rows, view))

    def part_of(self, features: Features) -> Part:
        """Predict features in memory."""
        with torch.inference_mode():
            on_device = features.to(self.learner.device)
            z, log_probs = self.learner.apply(on_device)
        return self._part(Outputs(z.cpu(), log_probs.cpu()), features.pooled.float())

    def _part(self, outputs: Outputs, embedding: Tensor | None) -> Part:
        """Make predictions of a learner's outputs; `embedding` are the frozen model's, for the novelty."""
        raw = np.asarray(outputs.log_probs.double().numpy())
        log_probs, novelty = scaled(raw, self.temperature), None
        if self.reference is not None and embedding is not None:
            novelty = self.reference.novelty(embedding.numpy())
        within = None if self.threshold is None else classes_within(raw, self.threshold)
        return Part(np.exp(log_probs), outputs.z.float().numpy(), novelty, within)
