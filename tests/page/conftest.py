"""Pages of every kind of run and study, each made once, and what they were made from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featcache as fc
from tests.page.pages import ODD_NAMES, embeddings, pictures, study, texts


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory, frozen: Callable[[str], str]) -> Path:
    """A folder with `images/`, `c.zarr` with a grid of tokens, and `run`, which learned in steps."""
    folder = tmp_path_factory.mktemp("cells")
    source = pictures(folder / "images", ODD_NAMES)
    fc.extract(source, frozen("tiny"), folder / "c.zarr", progress=False)
    options = {"optim.steps": 4, "log.every": 1}
    fc.train(folder / "c.zarr", out=folder / "run", labels_per_class=2, options=options, progress=False)
    return folder


@pytest.fixture(scope="session")
def page(
    cells: Path, tmp_path_factory: pytest.TempPathFactory, frozen: Callable[[str], str]
) -> Callable[[str], fc.Report]:
    """Makes the report of a kind, once."""

    def run(cache: fc.Cache, objective: str = "linear") -> fc.Run:
        return fc.train(cache, objective, out=cache.path.parent / "run", progress=False)

    def source_gone(folder: Path) -> Any:
        return fc.report(cells / "run", folder / "report.html", source=folder / "elsewhere")

    kinds: dict[str, Callable[[Path], fc.Report]] = {
        "run": lambda folder: fc.report(cells / "run", folder / "report.html", map=True),
        "no test": lambda folder: fc.report(run(embeddings(folder, 3, 12, noise=3)), folder / "report.html"),
        "classes": lambda folder: fc.report(run(embeddings(folder, 1000, 4), "knn"), folder / "report.html"),
        "texts": lambda folder: fc.report(run(texts(folder, frozen)), folder / "report.html"),
        "source gone": source_gone,
        "study": lambda folder: fc.report(study(folder / "runs"), folder / "report.html"),
    }

    @functools.cache
    def made(kind: str) -> fc.Report:
        return kinds[kind](tmp_path_factory.mktemp("page"))

    return made
