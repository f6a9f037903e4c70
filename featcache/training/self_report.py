"""Evaluate a trained learner: test figures, calibration, held-out labels, scores without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.loading.replay import ReplayCache
from featcache.training import selection
from featcache.training.calibration import COLDEST, calibration, fit_temperature, negative_log_likelihood
from featcache.training.data import Draw
from featcache.training.learner import Learner
from featcache.training.metrics import auroc, evaluate, open_set
from featcache.training.novelty import Reference
from featcache.training.outputs import pooled
from featcache.training.probing import Prober

Floats = NDArray[np.float64]


def self_report(
    learner: Learner, draw: Draw, held_out: Floats | None, replay: ReplayCache | None = None
) -> dict[str, Any]:
    """Return `test`, `temperature`, `held_out`, `scores`, and if they apply `open_set` and `probes`.

    The temperature never sees test labels. With `held_out`, it is fitted on these (n, C) log-probabilities of
    the labelled rows by cross-validation, in [1/20, 20]. Without, it is fitted on the learner's predictions
    of its own labelled rows, in [1, 20].
    """
    test, known = draw.test, draw.known
    log_probs = _log_probs(learner, test.store, test.rows)
    seen = _log_probs(learner, known.store, known.rows) if held_out is None else held_out
    temperature = fit_temperature(seen, known.label, 1.0 if held_out is None else COLDEST)
    figures = evaluate(log_probs, test.label, draw.class_names)
    report: dict[str, Any] = {
        "test": figures | calibration(log_probs, test.label, temperature),
        "temperature": temperature,
        "held_out": None if held_out is None else _figures(held_out, known.label),
        "scores": _scores(learner, draw),
    }
    if len(draw.unknown_rows):
        unknown = _log_probs(learner, test.store, draw.unknown_rows)
        report["open_set"] = open_set(log_probs, unknown) | _novelty(draw)
    if (projector := learner.probed) is not None:
        prober = Prober(projector, draw.seed, draw.data.device)
        probes = prober.target(known, test, len(draw.class_names))
        report["probes"] = probes | (prober.replay(replay) if replay else {})
    return report


def _novelty(draw: Draw) -> dict[str, float]:
    """Measure how well the novelty separates test samples of known and unknown classes."""
    reference = Reference.of(draw)
    known, unknown = (
        reference.novelty(pooled(draw.test.store, rows).numpy())
        for rows in (draw.test.rows, draw.unknown_rows)
    )
    return {"novelty_auroc": auroc(1 - known, 1 - unknown)}


def _log_probs(learner: Learner, store: Any, rows: NDArray[np.int64]) -> Floats:
    return np.asarray(learner.predict(store, rows).log_probs.double().numpy())


def _figures(log_probs: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    return {
        "accuracy": float((log_probs.argmax(1) == labels).mean()),
        "nll": negative_log_likelihood(log_probs, labels),
    }


def _scores(learner: Learner, draw: Draw) -> dict[str, float]:
    """Score unlabelled training rows; the second view is the first augmented one, if the cache has any."""
    store = draw.data.train_store
    rows = selection.sample(draw.split.unlabelled, draw.split.labelled, draw.seed)
    if not len(rows):
        return {}
    z, log_probs = (part.double().numpy() for part in learner.predict(store, rows))
    augmented = len(store.view_names) > 1
    other = learner.predict(store, rows, 1).log_probs.double().numpy() if augmented else None
    return selection.scores(z, log_probs, other)
