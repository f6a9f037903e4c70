"""`featcache repair` brings back every byte that source and model can give, and says what they cannot."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import featcache as fc
from featcache.errors import CacheError, CacheMismatch

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Result]
Tree = Callable[[Path], Mapping[str, bytes]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a text tower and several units; not to be changed."""
    path = tmp_path_factory.mktemp("whole") / "c.zarr"
    options: dict[str, Any] = {"limit": 12, "tokens": "grid:2x2", "shard_size": "8", "num_workers": 0}
    fc.extract("digits", "open_clip:glyph-clip", path, progress=False, **options)
    return path


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "c.zarr")


def test_a_flip_in_every_file_is_repaired_to_the_byte(whole: Path, cache: Path, tree: Tree) -> None:
    rng, before = random.Random(0), tree(whole)
    # Few at a time: as many as there are files of one kind.
    kinds: dict[str, list[str]] = {}
    for name in sorted(before):
        kinds.setdefault("/".join(part for part in name.split("/")[1:] if not part.isdigit()), []).append(
            name
        )
    for names in kinds.values():
        for name in names:
            data = bytearray(before[name])
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            (cache / name).write_bytes(data)
        repaired = fc.repair(cache, progress=False)
        assert repaired.after.whole, names
        assert tree(cache) == before, names
        assert repaired.changed in ([], [f for f in repaired.changed if "ledger" in f])


@pytest.mark.parametrize("kind", ["deleted", "empty", "zeros"])
def test_lost_files_are_written_again(whole: Path, cache: Path, tree: Tree, kind: str) -> None:
    before = tree(whole)
    for name in (
        "train/tokens/c/0/0/0/0",
        "train/tokens/zarr.json",
        "test/sample_id/c/0",
        "test/status/c/1/0",
    ):
        if kind == "deleted":
            (cache / name).unlink()
        else:
            (cache / name).write_bytes(b"" if kind == "empty" else bytes(len(before[name])))
    assert fc.repair(cache, progress=False).after.whole
    assert tree(cache) == before


def test_a_whole_cache_is_left_alone_without_its_source(
    photos: Path, frozen: Callable[[str], str], tmp_path: Path, tree: Tree
) -> None:
    path = tmp_path / "c.zarr"
    fc.extract(photos, frozen("tiny"), path, progress=False, num_workers=0)
    before = tree(path)
    shutil.rmtree(photos)
    assert fc.repair(path, progress=False).units == 0
    assert tree(path) == before


def test_another_source_is_refused_and_code_is_not_run_by_name_alone(
    photos: Path, frozen: Callable[[str], str], tmp_path: Path, featcache: Command, tree: Tree
) -> None:
    path = tmp_path / "c.zarr"
    fc.extract(photos, frozen("tiny"), path, progress=False, num_workers=0)
    before, shard = tree(path), path / "train/pooled/c/0/0/0"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CacheError, match="code"):
        fc.repair(path, progress=False)
    moved = shutil.copytree(photos, tmp_path / "moved")
    image = next((moved / "train").rglob("*.png"))
    content = image.read_bytes()
    shutil.copyfile(next((moved / "test").rglob("*.png")), image)
    with pytest.raises(CacheMismatch, match="content"):
        fc.repair(path, source=moved, model=frozen("tiny"), progress=False)
    assert len(fc.verify(path, progress=False).damages) == 1
    image.write_bytes(content)
    said = featcache("repair", path, "--source", moved, "--model", frozen("tiny"))
    assert "1 units" in said.stdout
    assert tree(path) == before


def test_own_labels_are_never_replaced_by_those_of_the_source(cache: Path, tmp_path: Path) -> None:
    ids = fc.Cache.open(cache)["train"].ids
    table = tmp_path / "labels.csv"
    table.write_text("id,label\n" + "".join(f"{name},mine\n" for name in ids[:5]))
    fc.label(cache, table)
    labels = fc.Cache.open(cache).labels
    shard = cache / "train/pooled/c/0/0/0"
    shard.write_bytes(b"")
    fc.repair(cache, progress=False)
    assert fc.Cache.open(cache).labels.digest() == labels.digest()
    (lost,) = cache.glob("labels/*/train/c/0")
    lost.write_bytes(bytes(lost.stat().st_size))
    shard.write_bytes(b"")
    with pytest.raises(CacheError, match="labels"):
        fc.repair(cache, progress=False)
    found = fc.verify(cache, progress=False)
    assert [damage.file.partition("/")[0] for damage in found.damages] == ["labels"]
    fc.label(cache, table)
    assert fc.verify(cache, progress=False).whole


def test_an_import_is_repaired_from_what_was_imported(tmp_path: Path, tree: Tree) -> None:
    values = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    np.savez(tmp_path / "mine.npz", pooled=values, labels=np.array(["a", "b"] * 15))
    path = tmp_path / "c.zarr"
    fc.import_embeddings(tmp_path / "mine.npz", path, progress=False, model="mine")
    before, shard = tree(path), next(path.glob("train/pooled/c/0/0/0"))
    for name in (shard, path / "train/sample_id/c/0", *path.glob("labels/*/train/c/0")):
        name.write_bytes(bytes(name.stat().st_size))
    assert not fc.verify(path, progress=False).whole
    assert fc.repair(path, source=tmp_path / "mine.npz", progress=False).after.whole
    assert tree(path) == before


def test_the_command_fails_while_something_is_damaged(cache: Path, featcache: Command) -> None:
    assert featcache("verify", cache).stdout.startswith("whole")
    shard = cache / "train/tokens/c/1/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    said = featcache("verify", cache, "--quick", code=1).stdout
    assert "train/tokens/c/1/0/0/0" in said
    assert "rows 8 to 11" in said
    assert '"whole": false' in featcache("verify", cache, "--json", code=1).stdout
    featcache("repair", cache)
    assert '"whole": true' in featcache("verify", cache, "--json").stdout
