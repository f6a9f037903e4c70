"""What a run says of itself beside accuracy: calibration, held-out labelled samples, unlabelled scores."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.loading.splits import LabelSplit
from featcache.objectives.base import Probe
from featcache.runs.run import Run
from featcache.training import predictor, selection
from featcache.training.calibration import COLDEST, calibration, fit_temperature, negative_log_likelihood
from featcache.training.learner import build
from featcache.training.state import TrainState

if TYPE_CHECKING:
    from featcache.stages.train import Job

Floats = NDArray[np.float64]
PROBE_FOLDS = 5
"""Held out where `cv` says nothing: a probe is fitted again in no time."""


def judge(job: Job, predict: predictor.Predict, run: Run, log_probs: Floats) -> dict[str, Any]:
    """Parts of a result: `temperature`, `test` (nll_scaled, ece_scaled, reliability), `held_out`, `scores`.

    The temperature is fitted on labelled samples held out from the fit where there are such, and then lies in
    [1/20, 20]; else on the very samples that were learned from, in [1, 20]. Of the test, only figures depend
    on it: `log_probs` (N, C) are those of its rows.
    """
    rows, labels = job.labels.labelled, job.train_labels
    held = _held_out(job, run)
    seen = predict(job.train_store, rows).double().numpy() if held is None else held
    temperature = fit_temperature(seen, labels[rows], 1.0 if held is None else COLDEST)
    return {
        "test": calibration(log_probs, job.test_labels[job.test_rows], temperature),
        "temperature": temperature,
        "held_out": None if held is None else _figures(held, labels[rows]),
        "scores": _scores(job, predict),
    }


def _held_out(job: Job, run: Run) -> Floats | None:
    """(n, C) log-probabilities of the labelled rows, each from a training that did not learn from it.

    None where that is not asked for, or a class has one labelled sample only. A fold trains in a folder of
    the run, so that it can be resumed, which is gone in the end.
    """
    rows = job.labels.labelled
    wanted = job.options.cv or (PROBE_FOLDS if issubclass(job.kind, Probe) else 0)
    folds = selection.folds(job.train_labels[rows], wanted, job.request.seed)
    if not folds:
        return None
    found = np.empty((len(rows), len(job.class_names)))
    for number, held in enumerate(folds):
        part, place = copy.copy(job), Run(run.path / f"fold={number}")
        part.labels = LabelSplit(np.delete(rows, held), job.labels.unlabelled)
        learner = build(
            job.kind,
            job.options,
            part.task(),
            job.origin().features,
            seed=job.request.seed,
            device=job.device,
        )
        if isinstance(learner, TrainState):
            place.begin(job.config())
        found[held] = part.learn(learner, place)(job.train_store, rows[held]).double().numpy()
    for folder in run.path.glob("fold=*"):
        shutil.rmtree(folder)
    return found


def _figures(log_probs: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    return {
        "accuracy": float((log_probs.argmax(1) == labels).mean()),
        "nll": negative_log_likelihood(log_probs, labels),
    }


def _scores(job: Job, predict: predictor.Predict) -> dict[str, float]:
    """Of unlabelled training rows (none where there are none); the second view is the first augmented one."""
    rows = selection.sample(job.labels.unlabelled, job.labels.labelled, job.request.seed)
    if not len(rows):
        return {}
    z, log_probs = (part.double().numpy() for part in predict.look(job.train_store, rows, 0))
    augmented = len(job.train_store.view_names) > 1
    other = predict.look(job.train_store, rows, 1).log_probs.double().numpy() if augmented else None
    return selection.scores(z, log_probs, other)
