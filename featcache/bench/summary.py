"""Show the measured rates as a table, with an explanation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.bench.explain import (
    Extraction,
    Reading,
    Training,
    disk_words,
    extraction_words,
    rounded,
    training_words,
)
from featcache.errors import in_python, on_the_command_line


@dataclass(frozen=True, repr=False)
class Bench:
    """The measured rates; `describe` explains them."""

    path: Path
    reading: Reading
    training: Training
    extraction: Extraction | str
    """The rates, or the reason why they were not measured."""
    smaller: tuple[str, ...]
    """Extraction options that would make the samples of this cache smaller."""

    def describe(self, *, command_line: bool = False) -> str:
        """Return the table of rates and its explanation, with options as arguments or as flags."""
        spelled = on_the_command_line if command_line else in_python
        rows = [(spelled(name), rate, unit) for name, rate, unit in self._rows()]
        width, digits = max(len(name) for name, *_ in rows), max(len(rounded(rate)) for _, rate, _ in rows)
        lines = [f"{name:{width}}  {rounded(rate):>{digits}} {unit}/s" for name, rate, unit in rows]
        words = [training_words(self.reading, self.training, self.smaller), disk_words(self.reading)]
        extraction = self.extraction
        words.append(
            f"Extraction was not measured: {extraction}"
            if isinstance(extraction, str)
            else extraction_words(extraction)
        )
        return "\n".join([*lines, "", *map(spelled, words)])

    def __repr__(self) -> str:
        return self.describe()

    def as_dict(self) -> dict[str, Any]:
        """Return all rates as plain values, for JSON, with options as flags."""
        extraction = self.extraction
        content = {
            "path": str(self.path),
            "reading": asdict(self.reading),
            "training": asdict(self.training),
            "extraction": extraction if isinstance(extraction, str) else asdict(extraction),
            "smaller": list(self.smaller),
        }
        return dict(_with_flags(content))

    def _rows(self) -> list[tuple[str, float, str]]:
        reading, training, extraction = self.reading, self.training, self.extraction
        rows: list[tuple[str, float | None, str]] = [
            ("copying in memory (index_select of tokens)", reading.memory, "samples"),
            ("the cache's files, in the page cache", reading.warm, "samples"),
            ("the cache's files, from disk", reading.cold, "samples"),
            ("the loader's batches", reading.loader, "samples"),
            (f"a step of {training.objective} alone", training.step, "samples"),
            *((f"  with {name}", rate, "samples") for name, rate in training.tried.items()),
            ("training from files", training.streamed, "samples"),
            (f"training from residency ({reading.residency})", training.resident, "samples"),
        ]
        if not isinstance(extraction, str):
            rows += [
                ("reading and decoding, one reader", extraction.decode, "views"),
                (f"the forward pass of {extraction.model}", extraction.forward, "views"),
                *((f"  with {name}", rate, "views") for name, rate in extraction.tried.items()),
            ]
        return [(name, rate, unit) for name, rate, unit in rows if rate is not None]


def _with_flags(content: Any) -> Any:
    """Write every marked option inside plain values as a flag."""
    if isinstance(content, dict):
        return {on_the_command_line(key): _with_flags(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_flags(value) for value in content]
    return on_the_command_line(content) if isinstance(content, str) else content
