"""Read and write the files of a run, so that no byte of them can change unnoticed.

Each JSON and safetensors file holds a seal. The result also records the size and the checksum of every other
file, which finds files that are missing, that were not there, or that come from another run.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

from featcache import files
from featcache.errors import DamagedRun, TrainError, option
from featcache.runs.types import wrong_type
from featcache.seal import KEY, OPEN, is_whole, seal, sealed_json

CONFIG, ENVIRONMENT, LABELS, RESULT = "config.json", "environment.json", "labels.json", "result.json"
TASK, CHECKPOINT = "task.safetensors", "checkpoint.safetensors"
REFERENCE, HELD_OUT = "reference.safetensors", "held_out.safetensors"
METRICS, EVENTS = "metrics.jsonl", "events.out.tfevents.*"
RECORD = "files"
"""The key of a result that holds the record of all other files."""
_JSON = (CONFIG, ENVIRONMENT, LABELS, RESULT)
SEALED = (".json", ".safetensors")
"""The endings of files that hold a seal."""
_HEADER = "featcache"


class Digest(NamedTuple):
    """Size and checksum of a file."""

    size: int
    crc32c: str

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the digest of some bytes."""
        return cls(len(data), f"{google_crc32c.value(data):08x}")


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError inside the block into a FileError, which says how the training goes on."""
    return files.explained(
        path,
        again=f"free some space and repeat the command (`featcache train` with {option('resume', True)})",
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed JSON file atomically."""
    with writing(path):
        files.write_atomic(path, sealed_json(content))


def header(content: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the metadata of a safetensors file with an open seal, which `write_tensors` closes."""
    return {_HEADER: json.dumps({KEY: OPEN, **(content or {})})}


def write_tensors(path: Path, data: bytes) -> None:
    """Seal and write a serialised safetensors file atomically; its metadata come from `header`."""
    with writing(path):
        files.write_atomic(path, seal(data))


def read(path: Path) -> bytes | None:
    """Return the bytes of a file of a run; None if the run never had it.

    Raises DamagedRun if the file is not as it was written: by the record in the result, or else by its seal.
    """
    found, record = content(path), {} if path.name == RESULT else record_of(path.parent)
    if problem := problem_of(path, found, record):
        raise damaged(path, problem)
    return found


def content(path: Path) -> bytes | None:
    """Return the bytes of a file; None if there is none. Raises DamagedRun if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise damaged(path, "a folder" if path.is_dir() else "no regular file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise damaged(path, error.strerror or error) from error


def problem_of(path: Path, found: bytes | None, record: Mapping[str, Digest]) -> str | None:
    """Say how the bytes of a file are not as they were written; return None if they are.

    A run of an earlier version has neither record nor seals, so nothing is known of its bytes.
    """
    if record and path.name != RESULT:
        return _differs(found, record.get(path.name))
    if found is None or path.suffix not in SEALED:
        return None
    whole = is_whole(found)
    if whole is None and any(is_sealed(path.with_name(name)) for name in _JSON):
        return "no seal, unlike other files of the run"
    return "its checksum does not match" if whole is False else None


def _differs(found: bytes | None, expected: Digest | None) -> str | None:
    if found is None:
        return None if expected is None else "no such file"
    if expected is None:
        return "the run did not have this file when it was finished"
    return None if Digest.of(found) == expected else "other bytes than when the run was finished"


def record_of(folder: Path) -> dict[str, Digest]:
    """Return what the result of a run records of its other files; nothing for an unfinished or old run."""
    result = read_json(folder / RESULT)
    record = {} if result is None else result.get(RECORD, {})
    with readable(folder / RESULT):
        if any(Path(name).name != name for name in record):
            raise ValueError(f"`{RECORD}` names a file outside the run")
        return {name: Digest(**file) for name, file in record.items()}


def make_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of a run which is about to be finished; raises DamagedRun if a file is damaged."""
    return {
        path.name: Digest.of(found)._asdict()
        for path in files_of(folder)
        if path.name != RESULT and (found := read(path)) is not None
    }


def files_of(folder: Path, record: Iterable[str] = ()) -> list[Path]:
    """Return the paths at which a run may have files: all its names, its events, a user's own objective.

    `record` names files that the run had.
    """
    found = {path.name for pattern in (EVENTS, "*.py") for path in folder.glob(pattern)}
    names = (*_JSON, TASK, REFERENCE, CHECKPOINT, HELD_OUT, METRICS, *sorted(found.union(record)))
    return [folder / name for name in dict.fromkeys(names)]


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file without its seal; None if the run never had it. Raises DamagedRun."""
    if (data := read(path)) is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    if problem := wrong_type(path.name, found):
        raise damaged(path, problem)
    return {key: value for key, value in found.items() if key != KEY}


def read_tensors(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a safetensors file and the JSON in its metadata.

    Raises DamagedRun, also if there is no file, and errors that `readable` explains.
    """
    if (data := read(path)) is None:
        raise damaged(path, "no such file")
    return data, _header_of(data)


def is_sealed(path: Path) -> bool:
    """Return True if a file has a seal; raises DamagedRun if it cannot be read."""
    found = content(path)
    return found is not None and is_whole(found) is not None


def damaged(path: Path, got: object) -> DamagedRun:
    """Return the error for a file of a run that is not as it was written."""
    return DamagedRun(
        f"{path} is damaged",
        got=got,
        expected="the file as the training wrote it",
        hint=f"restore it from a copy of the run, or train again with another {option('out')}",
    )


@contextmanager
def readable(what: object, expected: str | None = None) -> Iterator[None]:
    """Turn the errors of reading a file in safetensors that does not fit into a TrainError about `what`."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise TrainError(
            f"{what} cannot be used",
            got=str(error).partition("\n")[0],
            expected=expected,
            hint=f"train again with another {option('out')}",
        ) from error


def _header_of(data: bytes) -> dict[str, Any]:
    """Return the JSON in the metadata of a safetensors file; nothing if it has none."""
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return dict(json.loads(metadata.get(_HEADER, "{}")))
