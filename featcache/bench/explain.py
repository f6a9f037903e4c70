"""What bounds a machine with a cache, in plain words: from measured rates alone, without any I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featcache.files import human_bytes

HELPS = 1.1
"""What makes less of a difference than this is not worth an option, nor surely measured."""


@dataclass(frozen=True)
class Reading:
    """Samples a second (a sample: one row in one view) that reach memory, and what there is room for."""

    memory: float
    """What memory itself gives: tokens of shuffled rows, by `torch.index_select`, into a reused buffer."""
    warm: float
    """The same rows from the cache's files, which the operating system holds in memory."""
    cold: float | None
    """The same, straight from the disk; None where the system does not let go of the files."""
    loader: float
    """All that a training reads, in batches made ready ahead, from files in memory."""
    nbytes: int
    """Bytes of the training split, as held in memory."""
    free: int
    """Bytes of RAM available."""
    residency: str
    """Where the training option `data.residency` holds the rows: stream, ram or device."""

    @property
    def streams_from_disk(self) -> bool:
        """Whether a training reads the disk at every epoch: neither it nor the system holds all rows."""
        return self.residency == "stream" and self.nbytes > self.free


@dataclass(frozen=True)
class Training:
    """Samples a second that training steps take."""

    objective: str
    step: float
    """Where batches are at hand."""
    streamed: float | None = None
    """With the loader, from the cache's files; None where the time did not suffice."""
    resident: float | None = None
    """With the loader, from memory or the device; None where it does not fit or the time did not suffice."""
    tried: Mapping[str, float] = field(default_factory=dict)
    """`step` under other options, by the option."""


@dataclass(frozen=True)
class Extraction:
    """Views a second: read and transformed by one reader, and through the model."""

    model: str
    decode: float
    forward: float
    readers: int
    """Readers that an extraction has by default."""
    cores: int
    device: str
    tried: Mapping[str, float] = field(default_factory=dict)
    """`forward` under other options, by the option."""


def training_words(reading: Reading, training: Training, smaller: Sequence[str]) -> str:
    """What bounds a training, and what helps; `smaller`: options of an extraction that shrink each sample."""
    step, again = rounded(training.step), _again(smaller)
    from_disk = reading.cold if reading.streams_from_disk else None
    source = from_disk or reading.loader
    if training.step <= source:
        said = (
            f"bound by the step (compute): reading gives {rounded(source)} samples/s, the step takes {step}."
        )
        # Smaller values of as many tokens would make no step faster.
        fewer = _again([option for option in smaller if option.startswith("--tokens")])
        return f"Training is {said} {_measured(training.tried, training.step, fewer)}"
    room = f"the split takes {human_bytes(reading.nbytes)}, {human_bytes(reading.free)} are free"
    rates = f"{rounded(source)} samples/s, and the step could take {step}"
    if from_disk:
        rest = f"Less of each sample would help: {again}." if again else "A faster disk would help."
        return f"Training is bound by the disk: it gives {rates} ({room}). {rest}"
    if reading.residency == "stream" and reading.nbytes < reading.free:
        held = f"--set data.residency=ram would help ({room})"
        return f"Training is bound by reading the cache's files: they give {rates}. {held}."
    rest = f"Less of each sample would help: {again}." if again else "Each sample is as small as it gets."
    return f"Training is bound by memory: the loader gives {rates}. {rest}"


def disk_words(reading: Reading) -> str:
    """What the disk costs a cache that is not in memory yet."""
    if reading.cold is None:
        return "The disk was not measured: this system keeps the cache's files in memory."
    if reading.streams_from_disk:
        return "The split does not fit into memory: every epoch reads the disk."
    if reading.loader < HELPS * reading.cold:
        return "The disk keeps up with memory: a first epoch costs no more than the others."
    return f"Only the first epoch after a restart waits for the disk ({rounded(reading.cold)} samples/s)."


def extraction_words(extraction: Extraction) -> str:
    """What bounds an extraction, and what helps."""
    readers, read = extraction.readers, extraction.readers * extraction.decode
    many = f"{readers} reader{'s give' if readers > 1 else ' gives'} {rounded(read)} views/s"
    rates = f"{many}, the model takes {rounded(extraction.forward)}"
    if read >= extraction.forward:
        otherwise = "" if extraction.device == "cuda" else "a GPU (--device cuda)"
        said = _measured(extraction.tried, extraction.forward, otherwise)
        return f"Extraction is bound by the forward pass: {rates}. {said}"
    workers = min(math.ceil(extraction.forward / extraction.decode), extraction.cores)
    rest = f"All {extraction.cores} cores read already: smaller images, or more cores, would help."
    if workers > readers:
        rest = f"--num-workers {workers} would help."
    return f"Extraction is bound by decoding: {rates}. {rest}"


def _again(options: Sequence[str]) -> str:
    return f"extract again with {' or '.join(options)}" if options else ""


def _measured(tried: Mapping[str, float], before: float, otherwise: str) -> str:
    """Which of the options that were tried help, the best first; and what else would, unmeasured."""
    gains = sorted(((rate / before, option) for option, rate in tried.items()), reverse=True)
    helping = [f"{option} ({gain:.1f} times as fast)" for gain, option in gains if gain >= HELPS]
    useless = [f"{option} ({gain:.1f} times)" for gain, option in gains if gain < HELPS]
    words = [f"Measured: {' or '.join(helping)} would help."] if helping else []
    words += [f"Measured, and no help here: {', '.join(useless)}."] if useless else []
    words += [f"Not measured: {otherwise}."] if otherwise else []
    return " ".join(words)


def rounded(value: float) -> str:
    """Three digits, as more are not known.

    >>> rounded(12_345.6), rounded(912.3), rounded(0.456)
    ('12,300', '912', '0.456')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
