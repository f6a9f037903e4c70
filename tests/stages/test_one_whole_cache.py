"""There is always one whole cache: what fails replaces nothing, and what is lost is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from featcache.api.cache import Cache
from featcache.errors import CacheError, FeatcacheError
from featcache.stages.extract import extract
from featcache.stages.import_ import import_embeddings
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")

Tree = Callable[[Path], Mapping[str, bytes]]
TRAIN = ["--objective", "linear", "--device", "cpu", "--set", "cv=off", "--set", "optim.steps=3"]


def test_samples_that_all_fail_replace_nothing(
    request_of: Callable[..., dict[str, Any]], photos: Path, tree: Tree
) -> None:
    request = request_of()
    extract(**request)
    before = tree(request["out"])
    images = {path: path.read_bytes() for path in (photos / "test").rglob("*.png")}
    for path in images:
        path.write_bytes(b"no image")
    with pytest.raises(CacheError, match="all 4 samples of `test` failed"):
        extract(**request, overwrite=True)
    assert tree(request["out"]) == before
    for path, data in images.items():
        path.write_bytes(data)
    extract(**request, overwrite=True)
    assert tree(request["out"]) == before
    assert not [path for path in request["out"].parent.iterdir() if path.suffix == ".partial"]


@pytest.mark.parametrize("lost", [None, b"", b"{"])
def test_a_split_without_its_description_is_named(
    make_cache: Callable[..., Path], tmp_path: Path, featcache: Callable[..., Result], lost: bytes | None
) -> None:
    cache = make_cache(tmp_path / "c.zarr")
    featcache("train", cache, *TRAIN, "--out", tmp_path / "run")
    if lost is None:
        (cache / "test" / "zarr.json").unlink()
    else:
        (cache / "test" / "zarr.json").write_bytes(lost)
    assert "test: damaged" in featcache("info", cache).output
    assert "damaged" in repr(Cache.open(cache))
    for command in (
        ("train", cache, *TRAIN, "--out", tmp_path / "other"),
        ("predict", tmp_path / "run", cache, "--out", tmp_path / "p.csv"),
        ("predict", tmp_path / "run", cache, "--split", "test", "--out", tmp_path / "p.csv"),
        ("export", cache, "--to", "h5", "--out", tmp_path / "e"),
        ("check", cache),
        ("verify", cache),
    ):
        said = featcache(*command, code=1).output
        assert "test" in said, command
        assert "damaged" in said, command
    assert not (tmp_path / "other").exists()


def test_a_cache_that_is_replaced_under_a_training_is_an_error(
    make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache, other = make_cache(tmp_path / "c.zarr"), make_cache(tmp_path / "other.zarr", dtype="float16")
    options = {"data": {"residency": "stream"}, "optim": {"steps": 4}, "projector": {"heads": 2}}

    def watch(step: int, terms: Mapping[str, float]) -> None:
        if cache.exists() and other.exists():
            cache.rename(tmp_path / "old.zarr")
            other.rename(cache)

    request = TrainRequest(cache, "supervised", 0, options=options | {"log": {"every": 1}})
    with pytest.raises(CacheError, match=r"c\.zarr was replaced"):
        run_training(request, tmp_path / "run", device="cpu", watch=watch)
    assert not other.exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_import_that_fails_replaces_nothing(tmp_path: Path, tree: Tree) -> None:
    embeddings, out = tmp_path / "e.npy", tmp_path / "e.zarr"
    values = np.random.default_rng(0).standard_normal((40, 8)).astype("float32")
    np.save(embeddings, values)
    import_embeddings(embeddings, out, progress=False)
    before = tree(out)
    np.save(embeddings, np.where(np.arange(40)[:, None] == 39, np.nan, values))
    with pytest.raises(FeatcacheError, match="nan"):
        import_embeddings(embeddings, out, overwrite=True, progress=False)
    assert tree(out) == before
    np.save(embeddings, values)
    import_embeddings(embeddings, out, overwrite=True, progress=False)
    assert tree(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"e.npy", "e.zarr"}
