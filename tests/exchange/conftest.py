"""Small embeddings in every format, as a module of functions; importing them quietly."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import featcache as fc

HERE = Path(__file__).parent


def _load(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


made = _load(HERE / "made.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `form` is run for every format."""
    if "form" in metafunc.fixturenames and not metafunc.definition.get_closest_marker("parametrize"):
        metafunc.parametrize("form", made.FORMATS)


@pytest.fixture(name="made", scope="session")
def made_() -> ModuleType:
    """The functions of `made.py`."""
    return made


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The functions that write a made-up cache."""
    return _load(HERE.parent / "cache" / "synthetic.py")


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., fc.Cache]:
    """Imports a place into `cache.zarr`."""

    def run(path: Path, **options: Any) -> fc.Cache:
        return fc.import_embeddings(path, tmp_path / "cache.zarr", progress=False, **options)

    return run
