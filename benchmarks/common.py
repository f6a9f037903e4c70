"""Shared parts of the benchmarks: contestants in turns, medians, tables with ratios, JSON, random data."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.labels import LabelTable
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec, TokenArray
from featcache.cache.writer import CacheWriter
from featcache.loading.loader import Loader, Stream
from featcache.loading.store import FeatureStore
from featcache.specs import EncoderSpec

T = TypeVar("T")
Tokens = NDArray[np.float16]
CLASS_NAMES = tuple("0123456789")
AT_ONCE = 64
"""Rows in a batch on its way to disk."""


class Table(NamedTuple):
    """The results of every contestant in each round of one case; empty if it is not installed."""

    case: str
    unit: str
    bound: str
    """The contestant that the others are compared with."""
    values: Mapping[str, Sequence[float]]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each contestant: the median, and its ratio to that of the bound."""
        limit = statistics.median(self.values[self.bound])
        middle = {name: statistics.median(found) if found else None for name, found in self.values.items()}
        return [
            {
                "contestant": name,
                "case": self.case,
                "value": value if value is None else float(f"{value:.5g}"),
                "unit": self.unit,
                "ratio": value if value is None else float(f"{value / limit:.4g}"),
                "bound": self.bound,
            }
            for name, value in middle.items()
        ]

    def markdown(self) -> str:
        """Return a heading and a table."""
        rounds = max(map(len, self.values.values()))
        lines = [
            f"{self.case}; {machine()}; rounds: {rounds}, median:\n",
            f"| contestant | {self.unit} | ratio to {self.bound} |",
            "| --- | --- | --- |",
        ]
        for row in self.rows():
            value, ratio = row["value"], row["ratio"]
            said = "not installed |" if value is None else f"{number(value)} | {number(ratio)}"
            lines.append(f"| {row['contestant']} | {said} |")
        return "\n".join(lines)


def interleaved(
    contestants: Mapping[str, Callable[[], T] | None], rounds: int, warm_up: int = 1
) -> dict[str, list[T]]:
    """Run the contestants in turns, and return their results; the first `warm_up` rounds do not count."""
    found: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in range(warm_up + rounds):
        for name, run in contestants.items():
            if run is None:
                continue
            value = run()
            if turn >= warm_up:
                found[name].append(value)
    return found


def rate(run: Callable[[], float]) -> Callable[[], float]:
    """Return a function that measures the work that `run` returns, per second."""

    def timed() -> float:
        start = time.perf_counter()
        done = run()
        return done / (time.perf_counter() - start)

    return timed


def installed(module: str) -> bool:
    """Return True if a module is installed."""
    return importlib.util.find_spec(module) is not None


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small, short version")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    return parser


def report(tables: Iterable[Table], path: Path | None, notes: Sequence[str] = ()) -> None:
    """Print all tables and notes; write the rows as JSON to `path`, if it is given."""
    tables = list(tables)
    print("\n\n".join([*(table.markdown() for table in tables), *notes]))
    save([row for table in tables for row in table.rows()], path)


def save(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Write rows as JSON to `path`, if it is given."""
    if path:
        path.write_text(json.dumps(rows, indent=2) + "\n")


def machine() -> str:
    """Describe the machine and the versions that results depend on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"torch {version('torch')}"
    )


def number(value: float) -> str:
    """Format a number: large ones as integers, others with three digits.

    >>> number(57105.8), number(0.98765)
    ('57,106', '0.988')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def random_tokens(tokens: int, dim: int) -> Callable[[int], Tokens]:
    """Return a function that draws a number of float16 rows (rows, tokens, dim), seeded."""
    rng = np.random.default_rng(0)
    return lambda rows: rng.standard_normal((rows, tokens, dim), np.float32).astype(np.float16)


ENCODER = EncoderSpec(
    name="benchmark", weights="0" * 64, modality="image", preprocess="none", norm="none", projection="none"
)


def both_streams(
    store: FeatureStore, batch_size: int, uratio: float, device: torch.device, token_subset: float = 1.0
) -> Loader:
    """Make a loader of labelled and unlabelled batches over all rows, as a training reads them."""
    rows, size = np.arange(store.rows), round(uratio * batch_size)
    labelled = Stream.shuffled(store, rows, ("eval",), batch_size=batch_size, seed=0)
    unlabelled = Stream.shuffled(store, rows, ("eval",), batch_size=size, seed=1)
    labels = rows % len(CLASS_NAMES)
    return Loader(labelled, labels, unlabelled, device=device, token_subset=token_subset)


def write_cache(
    path: Path,
    splits: Mapping[str, int],
    features: Callable[[int], Tokens],
    layout: LayoutSpec | None = None,
) -> None:
    """Write a cache with a number of rows by split; labels are cyclic, pooled is the first token."""
    _, tokens, dim = features(1).shape
    spec = CacheSpec(encoder=ENCODER, layers=(-1,), tokens="all")
    shapes = Shapes(layers=(TokenArray(layer=-1, tokens=tokens, dim=dim),), pooled=dim)
    with CacheWriter(path, spec, layout=layout) as writer:
        for name, rows in splits.items():
            ids, labels = [f"{name}/{row}" for row in range(rows)], np.arange(rows) % len(CLASS_NAMES)
            split = writer.split(name, SplitSpec(content=name, rows=rows), ids, shapes)
            writer.label(LabelTable(CLASS_NAMES, {name: labels}))
            for unit in split.missing():
                with split.begin(unit) as out:
                    for start in range(unit.start, unit.stop, AT_ONCE):
                        batch = features(min(AT_ONCE, unit.stop - start))
                        out.append({-1: batch}, batch[:, 0])
                    out.commit()


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write `count` JPEG files of (width, height), as smooth as photographs."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng([count, *size])
    for row in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{row:06}.jpg", quality=90)
