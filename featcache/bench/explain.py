"""Explain from measured rates what limits training and extraction, and which options help. No I/O.

Options are marked by `featcache.errors.option`, so that Python users read arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featcache.errors import in_python, option
from featcache.files import human_bytes

HELPS = 1.1
"""Smallest speed-up to recommend an option for; smaller ones may be noise."""


@dataclass(frozen=True)
class Reading:
    """Rates of reading in samples/s (a sample: one row in one view), and the memory that rows need."""

    memory: float
    """Tokens of shuffled rows copied within memory: `torch.index_select` into a reused buffer."""
    warm: float
    """The same rows from the cache's files in the page cache."""
    cold: float | None
    """The same rows from the disk; None if the page cache cannot be dropped."""
    loader: float
    """Whole training batches from the loader, with the files in the page cache."""
    nbytes: int
    """Bytes of the training split in memory."""
    free: int
    """Bytes of RAM available."""
    residency: str
    """Where a training holds the rows (option `data.residency`): stream, ram or device."""

    @property
    def streams_from_disk(self) -> bool:
        """True if every epoch reads the disk: rows are streamed and do not fit into free memory."""
        return self.residency == "stream" and self.nbytes > self.free


@dataclass(frozen=True)
class Training:
    """Rates of training steps in samples/s."""

    objective: str
    step: float
    """The step alone, on a batch that is in memory."""
    streamed: float | None = None
    """With the loader, from the cache's files; None if there was no time to measure it."""
    resident: float | None = None
    """With the loader, from RAM or the device; None if it is not used or there was no time."""
    tried: Mapping[str, float] = field(default_factory=dict)
    """`step` with one option changed, by that option."""


@dataclass(frozen=True)
class Extraction:
    """Rates of an extraction in views/s."""

    model: str
    decode: float
    """Reading and transforming in one reader."""
    forward: float
    """The forward pass of the model."""
    readers: int
    """Number of readers that an extraction has by default."""
    cores: int
    device: str
    tried: Mapping[str, float] = field(default_factory=dict)
    """`forward` with one option changed, by that option."""


def training_words(reading: Reading, training: Training, smaller: Sequence[str]) -> str:
    """Explain what limits training. `smaller` lists extraction options that make samples smaller."""
    step = rounded(training.step)
    from_disk = reading.cold if reading.streams_from_disk else None
    source = from_disk or reading.loader
    if training.step <= source:
        # The size of a value does not change the time of a step; the number of tokens does.
        fewer = _extract_again([name for name in smaller if in_python(name).startswith("tokens=")])
        advice = _tried(training.tried, training.step, unmeasured=fewer)
        rates = f"a step processes {step} samples/s, and reading gives {rounded(source)}"
        return f"Training is limited by the step (compute): {rates}. {advice}"
    room = f"the split takes {human_bytes(reading.nbytes)}, and {human_bytes(reading.free)} are free"
    rates = f"{rounded(source)} samples/s, and a step could process {step}"
    again = _extract_again(smaller)
    advice = f"Smaller samples would help: {again}." if again else ""
    if from_disk:
        advice = advice or "A faster disk would help."
        return f"Training is limited by the disk: it gives {rates} ({room}). {advice}"
    if reading.residency == "stream" and reading.nbytes < reading.free:
        advice = f"{option('data.residency', 'ram')} would help ({room})."
        return f"Training is limited by reading the cache's files: they give {rates}. {advice}"
    advice = advice or "No option makes the samples smaller."
    return f"Training is limited by memory: the loader gives {rates}. {advice}"


def disk_words(reading: Reading) -> str:
    """Explain which epochs wait for the disk."""
    if reading.cold is None:
        return "The disk was not measured, because the page cache could not be dropped."
    if reading.streams_from_disk:
        return "The split does not fit into memory, so every epoch reads the disk."
    if reading.loader < HELPS * reading.cold:
        return "The disk is fast enough: the first epoch takes no longer than the others."
    return f"Only the first epoch after a restart waits for the disk ({rounded(reading.cold)} samples/s)."


def extraction_words(extraction: Extraction) -> str:
    """Explain what limits extraction, and which options help."""
    readers, read = extraction.readers, extraction.readers * extraction.decode
    reading = f"{readers} reader{'s give' if readers > 1 else ' gives'} {rounded(read)} views/s"
    if read >= extraction.forward:
        gpu = "" if extraction.device == "cuda" else f"a GPU ({option('device', 'cuda')})"
        advice = _tried(extraction.tried, extraction.forward, unmeasured=gpu)
        rates = f"the model processes {rounded(extraction.forward)} views/s, and {reading}"
        return f"Extraction is limited by the forward pass: {rates}. {advice}"
    workers = min(math.ceil(extraction.forward / extraction.decode), extraction.cores)
    advice = f"All {extraction.cores} cores are reading. Smaller images or more cores would help."
    if workers > readers:
        advice = f"{option('num_workers', workers)} would help."
    rates = f"{reading}, and the model could process {rounded(extraction.forward)}"
    return f"Extraction is limited by decoding: {rates}. {advice}"


def _extract_again(options: Sequence[str]) -> str:
    return f"extract again with {' or '.join(options)}" if options else ""


def _tried(tried: Mapping[str, float], before: float, *, unmeasured: str) -> str:
    """List the options that were tried, the fastest first, and one that was not measured."""
    gains = sorted(((rate / before, name) for name, rate in tried.items()), reverse=True)
    helping = [f"{name} ({gain:.1f} times as fast)" for gain, name in gains if gain >= HELPS]
    useless = [f"{name} ({gain:.1f} times as fast)" for gain, name in gains if gain < HELPS]
    words = [f"Measured: {' or '.join(helping)} would help."] if helping else []
    words += [f"Measured without a gain: {', '.join(useless)}."] if useless else []
    words += [f"Not measured: {unmeasured}."] if unmeasured else []
    return " ".join(words)


def rounded(value: float) -> str:
    """Write a rate with three digits; measurements are not more precise.

    >>> rounded(12_345.6), rounded(912.3), rounded(0.456)
    ('12,300', '912', '0.456')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
