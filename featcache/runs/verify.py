"""Check every file of a run against what was written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from featcache.cache.verify import Verification
from featcache.errors import FeatcacheError, TrainError
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


def verify_run(path: Path) -> Verification:
    """Check every file of a run, finished or not; raises TrainError if there is no run.

    Of a finished run, all bytes of all files are checked. An unfinished run knows no checksum of its
    TensorBoard events and of the metrics after its checkpoint yet: `--resume` writes both again. A run of an
    earlier version has no checksums; its files are read.
    """
    if not is_run(path):
        raise TrainError(f"no run at {path}", got="something else" if path.exists() else "no such folder")
    report, record = Verification(), dict[str, Digest]()
    with suppress(FeatcacheError):  # the result itself is among the files below
        record = record_of(path)
    for file in files_of(path, record):
        _add(report, file, record)
    for fold in filter(is_run, sorted(path.glob("fold=*"))):
        below = verify_run(fold)
        report.nbytes += below.nbytes
        report.files.update({f"{fold.name}/{name}": verdict for name, verdict in below.files.items()})
        report.damages += [damage._replace(file=f"{fold.name}/{damage.file}") for damage in below.damages]
    return report


def _add(report: Verification, file: Path, record: Mapping[str, Digest]) -> None:
    """Add the verdict on a file; nothing for one that the run never had."""
    try:
        if (data := content(file)) is None and file.name not in record:
            return
        report.nbytes += len(data or b"")
        known, problem = _is_known(file, data or b"", record), problem_of(file, data, record)
    except TrainError as error:
        known, problem = True, error.got or error.what
    report.add(file.name, problem)
    if problem is None and not known:
        report.files[file.name] = "unknown"


def _is_known(file: Path, data: bytes, record: Mapping[str, Digest]) -> bool:
    """Return True if there is a checksum of a file; raises TrainError if it cannot be read without one."""
    if file.suffix in SEALED and not is_sealed(file):
        _parse(file)
    if file.name == METRICS and not record:
        mark = metrics_at(file.with_name(CHECKPOINT))
        if mark is not None and (problem := problem_of_metrics(data, mark)):
            raise TrainError(f"{file} is damaged", got=problem)
        return mark is not None
    sealed = file.suffix in SEALED and is_sealed(file)
    return sealed or (bool(record) and file.name != RESULT)


def _parse(file: Path) -> None:
    if file.suffix == ".json":
        read_json(file)
    else:
        with readable(file):
            read_tensors(file)
