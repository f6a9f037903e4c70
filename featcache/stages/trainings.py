"""The trainings of a pipeline: one after the other in this process, or one to each worker of a cluster."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.cluster import ClusterOptions, Died, alone, connected
from featcache.devices import resolve
from featcache.errors import ClusterError, option
from featcache.results.grid import GridCell
from featcache.stages.train import run_training
from featcache.training.data import DataPool
from featcache.training.request import TrainRequest

Say = Callable[[str], object]
Result = dict[str, Any]


@dataclass(frozen=True)
class _Task:
    number: int
    request: TrainRequest
    run: Path
    device: str
    folder: str
    """Working directory of the command, from which paths start."""


def run_all(
    requests: Sequence[tuple[GridCell, TrainRequest]],
    folder: Path,
    cluster: ClusterOptions,
    device: str = "auto",
    say: Say = print,
) -> list[tuple[GridCell, Result]]:
    """Train everything in `folder`, and return the results in the same order.

    Finished trainings are skipped, and unfinished ones are resumed. Raises ClusterError if the workers of a
    training die again and again; the others are kept.
    """
    tasks = [
        _Task(number, request, folder / cell.path, device, os.getcwd())
        for number, (cell, request) in enumerate(requests)
    ]
    results: dict[int, Result] = {}

    def finished(task: _Task, result: Result) -> None:
        results[task.number] = result
        path, accuracy = requests[task.number][0].path, 100 * result["test"]["accuracy"]
        say(f"[{len(results)}/{len(tasks)}] {path}: {accuracy:.1f} % in {result['seconds']:.1f} s")

    if cluster.used:
        _spread(tasks, cluster, device, say, finished)
    else:
        for task in tasks:
            finished(task, _train(task))
    _pool.cache_clear()
    return [(cell, results[number]) for number, (cell, _) in enumerate(requests)]


def _spread(
    tasks: Sequence[_Task],
    cluster: ClusterOptions,
    device: str,
    say: Say,
    finished: Callable[[_Task, Result], None],
) -> None:
    waiting = iter(tasks)
    with connected(cluster, device, say) as connection:
        for task, outcome in connection.run(_train_on_worker, lambda workers: next(waiting, None)):
            if isinstance(outcome, Died):
                raise ClusterError(
                    f"workers die over the training {task.run}",
                    got=outcome.reason,
                    hint=f"fewer {option('cluster.workers')} leave more memory to each; a rerun continues",
                )
            finished(task, outcome)


def _train_on_worker(task: _Task) -> Result:
    with alone(task.folder):
        return _train(task)


def _train(task: _Task) -> Result:
    return run_training(task.request, task.run, resume=task.run.exists(), pool=_pool(task.device))


@functools.lru_cache(maxsize=1)
def _pool(device: str) -> DataPool:
    """Return what trainings on the same rows share, so that a cache is opened and loaded once."""
    return DataPool(resolve(device))
