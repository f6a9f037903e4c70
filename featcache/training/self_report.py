"""Evaluate a trained learner: test figures, calibration, held-out labels, scores without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.loading.replay import ReplayCache
from featcache.training import selection
from featcache.training.calibration import COLDEST, calibration, fit_temperature, negative_log_likelihood
from featcache.training.data import Draw, Labelled
from featcache.training.estimate import estimate, holdout_interval
from featcache.training.held_out import HeldOut
from featcache.training.learner import Learner
from featcache.training.metrics import auroc, evaluate, open_set
from featcache.training.novelty import Reference
from featcache.training.outputs import pooled
from featcache.training.probing import Prober

Floats = NDArray[np.float64]


def self_report(
    learner: Learner,
    draw: Draw,
    held_out: HeldOut | None,
    replay: ReplayCache | None = None,
    *,
    holdout: Labelled | None = None,
    estimated: bool = False,
    random: bool = True,
) -> dict[str, Any]:
    """Return `temperature`, `held_out`, `scores`, and if they apply `test`, `holdout`, `estimate`,
    `open_set` and `probes`.

    The temperature never sees test labels. With `held_out`, it is fitted on these log-probabilities of the
    labelled rows by cross-validation, in [1/20, 20]. Without, it is fitted on the learner's predictions of
    its own labelled rows, in [1, 20].

    `holdout` are labelled rows that no training saw. `estimated` asks for the estimate of the accuracy, and
    `random` says that the labels were drawn at random.
    """
    known = draw.known
    seen, label = _seen(learner, known, held_out)
    temperature = fit_temperature(seen, label, 1.0 if held_out is None else COLDEST)
    report: dict[str, Any] = {
        "temperature": temperature,
        "held_out": None if held_out is None else _figures(seen, label),
        "scores": _scores(learner, draw),
    }
    if draw.test is not None:
        report = _tested(learner, draw, draw.test, temperature) | report
    if holdout is not None and len(holdout.rows):
        figures = _evaluated(learner, holdout, draw, temperature)[1]
        right = round(figures["accuracy"] * figures["samples"])
        chosen = {} if random else {"chosen": True}
        report["holdout"] = figures | holdout_interval(right, figures["samples"]) | chosen
    if estimated:
        report["estimate"] = estimate(held_out, known.label, draw.class_names, random=random)
    if (projector := learner.probed) is not None:
        prober = Prober(projector, draw.seed, draw.data.device)
        target = prober.target(known, draw.test, len(draw.class_names)) if draw.test is not None else {}
        report["probes"] = target | (prober.replay(replay) if replay else {})
    return report


def _seen(learner: Learner, known: Labelled, held_out: HeldOut | None) -> tuple[Floats, NDArray[np.int64]]:
    """Return the log-probabilities and the labels that the temperature is fitted on."""
    if held_out is None:
        return _log_probs(learner, known.store, known.rows), known.label
    return held_out.log_probs[held_out.known], held_out.label[held_out.known]


def _tested(learner: Learner, draw: Draw, test: Labelled, temperature: float) -> dict[str, Any]:
    """Return `test`, and `open_set` if the draw has unknown classes."""
    log_probs, figures = _evaluated(learner, test, draw, temperature)
    if not len(draw.unknown_rows):
        return {"test": figures}
    unknown = _log_probs(learner, test.store, draw.unknown_rows)
    return {"test": figures, "open_set": open_set(log_probs, unknown) | _novelty(draw, test)}


def _novelty(draw: Draw, test: Labelled) -> dict[str, float]:
    """Measure how well the novelty separates test samples of known and unknown classes."""
    reference = Reference.of(draw)
    rows = (test.rows, draw.unknown_rows)
    known, unknown = (reference.novelty(pooled(test.store, part).numpy()) for part in rows)
    return {"novelty_auroc": auroc(1 - known, 1 - unknown)}


def _evaluated(
    learner: Learner, part: Labelled, draw: Draw, temperature: float
) -> tuple[Floats, dict[str, Any]]:
    """Return the log-probabilities of labelled rows, and the figures of their accuracy and calibration."""
    log_probs = _log_probs(learner, part.store, part.rows)
    figures = evaluate(log_probs, part.label, draw.class_names)
    return log_probs, figures | calibration(log_probs, part.label, temperature)


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
