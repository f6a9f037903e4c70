"""Check every file of a run against what was written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from featcache.errors import DamagedRun, FeatcacheError, TrainError
from featcache.runs.metrics import metrics_at, problem_of_metrics
from featcache.runs.run import is_run
from featcache.runs.saved import (
    CHECKPOINT,
    METRICS,
    RESULT,
    SEALED,
    Digest,
    content,
    files_of,
    is_sealed,
    problem_of,
    read_json,
    read_tensors,
    readable,
    record_of,
)

EARLIER = "no checksum: an earlier version wrote it"
AGAIN = "no checksum yet: the training is not finished, and writes it again"


@dataclass(frozen=True)
class RunVerdict:
    """The verdict on each file of a run, by its name relative to the folder."""

    whole: list[str] = field(default_factory=list)
    """Files that have every byte as it was written."""
    problems: dict[str, str] = field(default_factory=dict)
    """Files that are damaged, missing or of another run, with what was found."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Files that can be read, but whose bytes cannot be checked, with the reason."""

    def add(self, name: str, problem: str | None, unknown: str | None = None) -> None:
        """Note a file."""
        if problem is not None:
            self.problems[name] = problem
        elif unknown is not None:
            self.unknown[name] = unknown
        else:
            self.whole.append(name)

    def add_below(self, folder: str, verdict: Self) -> None:
        """Note the files of a folder in the run."""
        self.whole.extend(f"{folder}/{name}" for name in verdict.whole)
        self.problems.update({f"{folder}/{name}": found for name, found in verdict.problems.items()})
        self.unknown.update({f"{folder}/{name}": found for name, found in verdict.unknown.items()})


def verify_run(path: Path) -> RunVerdict:
    """Check every file of a run, finished or not; raises TrainError if there is no run.

    Of a finished run, all bytes of all files are checked. An unfinished run does not know its TensorBoard
    events yet, nor the metrics after its checkpoint: `--resume` writes both again.
    """
    if not is_run(path):
        raise TrainError(f"no run at {path}", got="something else" if path.exists() else "no such folder")
    verdict, record = RunVerdict(), dict[str, Digest]()
    with suppress(FeatcacheError):  # the result itself is among the files below
        record = record_of(path)
    for file in files_of(path, record):
        try:
            if (data := content(file)) is None and file.name not in record:
                continue
            verdict.add(file.name, *_check(file, data, record))
        except DamagedRun as error:
            verdict.add(file.name, error.got)
        except TrainError as error:
            verdict.add(file.name, error.got or error.what)
    for fold in sorted(path.glob("fold=*")):
        if is_run(fold):
            verdict.add_below(fold.name, verify_run(fold))
    return verdict


def _check(file: Path, data: bytes | None, record: Mapping[str, Digest]) -> tuple[str | None, str | None]:
    """Return what is wrong with a file, and why it cannot be known."""
    problem = problem_of(file, data, record)
    if problem is not None or (record and file.name != RESULT):
        return problem, None
    if file.suffix in SEALED:
        if is_sealed(file):
            return None, None
        _parse(file)
        return None, EARLIER
    mark = metrics_at(file.with_name(CHECKPOINT)) if file.name == METRICS else None
    if mark is None:
        return None, EARLIER if file.with_name(RESULT).exists() else AGAIN
    return problem_of_metrics(data or b"", mark), None


def _parse(file: Path) -> None:
    if file.suffix == ".json":
        read_json(file)
    else:
        with readable(file):
            read_tensors(file)
