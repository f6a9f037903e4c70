"""The metrics of a training in steps: lines of JSON, and the same as TensorBoard events."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from featcache.files import write_atomic
from featcache.runs.run import RunFolder
from featcache.runs.saved import EVENTS, METRICS, Digest, content, damaged, read_tensors, readable, writing


class MetricLog:
    """Append metrics to metrics.jsonl and to TensorBoard events.

    When it starts at step k, it drops lines after step k, which a killed run wrote. It writes the events
    again from the remaining lines. `mark` is that of the checkpoint of step k, if it has one: the lines
    up to that step must be those which were written. Raises DamagedRun if they are not.
    """

    def __init__(self, run: RunFolder, start: int, mark: Digest | None = None) -> None:
        path = run.path / METRICS
        found = content(path) or b""
        kept = _until(path, found, start) if mark is None else _marked(path, found, mark)
        with writing(path):
            for events in run.path.glob(EVENTS):
                events.unlink()
            write_atomic(path, kept)
        self._lines, self._events = _Growing(path), _Events(run.path)
        for line in kept.splitlines():
            self._events.write(**json.loads(line))

    def __call__(self, step: int, terms: Mapping[str, float]) -> None:
        self._lines.write((json.dumps({"step": step, **terms}) + "\n").encode())
        self._events.write(step, **terms)

    def mark(self) -> Digest:
        """Force the lines to disk; return their digest, which a checkpoint keeps."""
        self._lines.force()
        return self._lines.digest

    def close(self) -> None:
        """Force both files to disk and close them."""
        self._lines.close()
        self._events.close()


class _Growing:
    """A file that is appended to without a buffer, so that a full disk is an error of the write itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = content(path) or b""
        self._size, self._crc32c = len(found), google_crc32c.value(found)
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        with writing(self.path):
            while left:
                left = left[self._file.write(left) :]
        self._size += len(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)

    @property
    def digest(self) -> Digest:
        return Digest(self._size, f"{self._crc32c:08x}")

    def force(self) -> None:
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._file:
            self.force()


class _Events:
    """TensorBoard's file of scalars. The writer of tensorboardX has a thread, whose errors nobody catches."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event

        there = next(iter(sorted(folder.glob(EVENTS))), None)
        name = EVENTS.replace("*", f"{int(time.time())}.{socket.gethostname()}")
        self._file = _Growing(there or folder / name)
        if there is None:
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, **terms: float) -> None:
        self.scalars(step, {f"train/{name}": value for name, value in terms.items()})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.summary(Summary(value=shown), step)

    def summary(self, summary: Any, step: int = 0) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._add(Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Any) -> None:
        """Append an event as a TFRecord: size and bytes, each with a masked checksum."""
        from tensorboardX.record_writer import masked_crc32c

        data = event.SerializeToString()
        size = len(data).to_bytes(8, "little")
        check, whole = (masked_crc32c(part).to_bytes(4, "little") for part in (size, data))
        self._file.write(size + check + data + whole)

    def close(self) -> None:
        self._file.close()


def write_figures(
    run: RunFolder, step: int, options: Mapping[str, Any], figures: Mapping[str, float]
) -> None:
    """Add the figures of a finished training to its TensorBoard events, with its hyper-parameters."""
    from tensorboardX.summary import hparams

    if not step:  # what a killed training of no steps has left
        for left in run.path.glob(EVENTS):
            left.unlink()
    events = _Events(run.path)
    events.scalars(step, figures)
    for summary in hparams(dict(options), dict(figures)):
        events.summary(summary)
    events.close()


def metrics_at(checkpoint: Path) -> Digest | None:
    """Return the digest of the metrics until a checkpoint; None without a checkpoint, or for an earlier one.

    Raises TrainError if the checkpoint is damaged.
    """
    if content(checkpoint) is None:
        return None
    with readable(checkpoint):
        mark = read_tensors(checkpoint)[1].get("metrics")
        return None if mark is None else Digest(**mark)


def problem_of_metrics(found: bytes, mark: Digest) -> str | None:
    """Say how the beginning of metrics.jsonl differs from the mark of a checkpoint; None if it does not."""
    kept = found[: mark.size]
    if len(kept) < mark.size:
        return f"{len(kept):,} bytes, of which the checkpoint had seen {mark.size:,}"
    return None if Digest.of(kept) == mark else "other bytes than the checkpoint had seen"


def _marked(path: Path, found: bytes, mark: Digest) -> bytes:
    if problem := problem_of_metrics(found, mark):
        raise damaged(path, problem)
    return found[: mark.size]


def _until(path: Path, found: bytes, start: int) -> bytes:
    """Return the lines up to a step, of a run without a checkpoint or of an earlier version."""
    # Runs of earlier versions called the replay cache `source`.
    lines = found.replace(b'"source_share"', b'"replay_share"').splitlines(keepends=True)
    steps = [_step(line) for line in lines]
    count = max((place for place, step in enumerate(steps, start=1) if step <= start), default=0)
    if (worst := max(steps[:count], default=0)) > start:
        raise damaged(path, f"line {1 + steps.index(worst)} is no line of metrics up to step {start}")
    return b"".join(lines[:count])


def _step(line: bytes) -> int:
    """Return the step of a line; a huge number for one that a kill truncated, which is written again."""
    try:
        values = json.loads(line)
        numbers = all(isinstance(value, int | float) for value in values.values())
        return int(values["step"]) if numbers and line.endswith(b"\n") else sys.maxsize
    except (ValueError, AttributeError, KeyError, RecursionError):
        return sys.maxsize
