"""Runs and studies of every kind, to make pages of."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import featcache as fc
from featcache.runs.run import RunFolder

ODD_NAMES = ("<script>alert(1)</script>", "🦉 & co", "קטלוג", "a|b `c` **d**")
"""Names of classes: markup, an emoji, right-to-left script, and what Markdown would read."""
OBJECTIVES = (
    "zero_shot",
    "knn",
    "linear",
    "supervised",
    "pseudo_label",
    "fixmatch",
    "flexmatch",
    "freematch",
    "softmatch",
    "debiaspl",
    "finessl",
    "twinturbo",
    "unsupervised",
    "content_style",
)


def pictures(folder: Path, names: tuple[str, ...], rows: int = 8) -> Path:
    """A folder of images, a CSV with their classes beside it: each class has its own colour."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), [("path", "label", "split")]
    for number, name in enumerate(names):
        for row in range(rows):
            pixels = rng.integers(0, 120, (20, 24 + row, 3), dtype=np.uint8)
            pixels[..., number % 3] += np.uint8(60 + 20 * number)
            Image.fromarray(pixels).save(folder / f"{number}-{row}.png")
            lines.append((f"{number}-{row}.png", name, "test" if row % 2 else "train"))
    with (folder / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / "all.csv"


def study(folder: Path, budgets: tuple[int, ...] = (1, 2, 4, 8), seeds: int = 5) -> Path:
    """Runs of 14 objectives, whose accuracies are made up."""
    rng = np.random.default_rng(0)
    for number, objective in enumerate(OBJECTIVES):
        for budget in budgets:
            for seed in range(seeds):
                accuracy = float(0.4 + 0.1 * np.log2(budget) + 0.01 * number + 0.02 * rng.random())
                run = RunFolder(folder / objective / f"budget={budget}" / f"seed={seed}")
                run.path.mkdir(parents=True)
                asked: dict[str, Any] = {"objective": objective, "seed": seed, "labels_per_class": budget}
                run.write("config.json", asked | {"options": {"data": {}}, "cache": "0" * 64, "splits": {}})
                run.write("environment.json", {"cache": "digits.zarr"})
                figures = {
                    "accuracy": accuracy,
                    "nll": 1.0,
                    "ece": 0.1,
                    "nll_scaled": 0.9,
                    "ece_scaled": 0.05,
                }
                run.finish(asked | {"num_labels": 10 * budget, "seconds": 2.0, "test": figures})
    return folder


KINDS = ("run", "no test", "classes", "texts", "source gone", "study")


def embeddings(folder: Path, classes: int, rows: int, noise: float = 0.5) -> fc.Cache:
    """A cache of one split without a test: `rows` samples of each of many classes."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(classes), rows)
    centres = rng.standard_normal((classes, 16)).astype(np.float32)
    away = rng.standard_normal((len(label), 16)).astype(np.float32)
    names = np.array([f"class number {number}" for number in range(classes)])
    np.savez(folder / "mine.npz", pooled=centres[label] + noise * away, labels=names[label])
    return fc.import_embeddings(folder / "mine.npz", folder / "c.zarr", model="my model", progress=False)


def texts(folder: Path, frozen: Callable[[str], str]) -> fc.Cache:
    """A cache of short texts in two classes."""
    lines = [
        f'{{"text": "{word} number {row}, <b>", "label": "{word}"}}'
        for row in range(15)
        for word in ("ay", "no")
    ]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return fc.extract(folder / "texts.jsonl", frozen("words"), folder / "c.zarr", progress=False)
