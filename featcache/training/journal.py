"""Record a training in its run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from featcache.progress import Progress
from featcache.runs.metrics import MetricLog, metrics_at
from featcache.runs.run import RunFolder
from featcache.training.learner import Journal, Learner

Watch = Callable[[int, Mapping[str, float]], None]
"""Function that is called with a step and its terms, after they are written."""


class RunJournal(Journal):
    """Write metrics and checkpoints of one learner to the folder of its run."""

    def __init__(self, run: RunFolder, learner: Learner, watch: Watch, bar: Progress) -> None:
        self._run, self._watch, self._bar, self._shown = run, watch, bar, learner.steps_done
        mark = metrics_at(run.checkpoint) if learner.steps_done else None
        self._metrics = MetricLog(run, learner.steps_done, mark)

    def log(self, step: int, terms: Mapping[str, float]) -> None:
        """Append a line of metrics, and advance the progress bar."""
        self._metrics(step, terms)
        self._watch(step, terms)
        self._bar.update(step - self._shown)
        self._shown = step

    def checkpoint(self, learner: Learner) -> None:
        """Replace the checkpoint."""
        learner.save(self._run.checkpoint, self._metrics.mark())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
