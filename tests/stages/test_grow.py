"""A cache that grows is, byte for byte, the cache extracted whole; only what is new is computed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.storage import held, storage_at
from featcache.errors import CacheError, CacheMismatch
from featcache.stages.extract import extract
from featcache.stages.label import label
from featcache.stages.verify import verify

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Tree = Callable[[Path], Mapping[str, bytes]]
Summaries = Callable[..., Mapping[str, Any]]
OPTIONS: dict[str, Any] = {"shard_size": "4", "batch_size": 3, "num_workers": 0}


def add(photos: Path, *names: str, like: int = 50) -> None:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(like + number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(photos / name)


def pooled(cache: Path, split: str = "train") -> Any:
    """(N, P), in the first view."""
    return zarr.open_array(cache / split / "pooled", mode="r")[:, 0]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_samples_at_the_end(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, summaries_of: Summaries, dtype: str
) -> None:
    options = OPTIONS | {"views": "weak=1", "dtype": dtype}
    extract(photos, frozen("tiny"), tmp_path / "grown", **options)
    before = CacheReader.open(tmp_path / "grown")
    std = before.shapes.layers[0].std
    shard = tmp_path / "grown/train/pooled/c/1/1/0"
    inode = shard.stat().st_ino
    add(photos, *(f"train/dog/{row}.png" for row in range(10, 15)))
    done = summaries_of(photos, frozen("tiny"), tmp_path / "grown", **options)
    # The last block had two of its four rows; its others, and the next block, are new.
    assert {name: (each.rows, each.added, each.computed) for name, each in done.items()} == {
        "train": (15, 5, 2 * 7),
        "test": (4, 0, 0),
    }
    assert shard.stat().st_ino == inode
    assert verify(tmp_path / "grown", progress=False).whole
    if dtype == "float16":  # the scale of int8 is the one that was measured first
        extract(photos, frozen("tiny"), tmp_path / "whole", **options)
        assert tree(tmp_path / "grown") == tree(tmp_path / "whole")
    else:
        assert CacheReader.open(tmp_path / "grown").shapes.layers[0].std == std
    assert {path.name for path in tmp_path.iterdir()} <= {"photos", "grown", "whole"}


def test_samples_in_between_come_last(photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> None:
    extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
    before = list(CacheReader.open(tmp_path / "c").split("train").ids)
    add(photos, "train/cat/00a.png", "train/ant/1.png")
    extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
    split = CacheReader.open(tmp_path / "c").split("train")
    assert list(split.ids) == [*before, "ant/1.png", "cat/00a.png"]
    names = [split.class_names[index] for index in split.labels]
    assert names == ["cat"] * 5 + ["dog"] * 5 + ["ant", "cat"]
    whole = tree(tmp_path / "c")
    extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
    assert tree(tmp_path / "c") == whole
    again = extract(photos, frozen("tiny"), tmp_path / "other", **OPTIONS)
    there = {name: row for row, name in enumerate(again["train"].ids)}
    rows = [there[name] for name in split.ids]
    np.testing.assert_allclose(pooled(tmp_path / "c"), pooled(tmp_path / "other")[rows], atol=1e-3)


@pytest.mark.parametrize("steps", [(3, 8), (5, None), (8, 8)])
def test_a_limit_that_is_raised(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, steps: tuple[int, int | None]
) -> None:
    for limit in steps:
        extract(photos, frozen("tiny"), tmp_path / "grown", limit=limit, **OPTIONS)
    extract(photos, frozen("tiny"), tmp_path / "whole", limit=steps[1], **OPTIONS)
    assert tree(tmp_path / "grown") == tree(tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(
    ("first", "then", "computed"),
    [
        ({}, {"views": "weak=2,strong=1"}, 3),
        ({"views": "strong=1"}, {"views": "weak=1,strong=2"}, 2),
        ({}, {"layers": "-1|-2"}, 1),
        ({"views": "weak=1"}, {"views": "weak=2", "layers": "-1|-2"}, 3),
    ],
)
def test_views_and_layers(
    photos: Path,
    frozen: Model,
    tmp_path: Path,
    tree: Tree,
    summaries_of: Summaries,
    dtype: str,
    first: dict[str, Any],
    then: dict[str, Any],
    computed: int,
) -> None:
    add(photos, "train/dog/broken.png")
    (photos / "train/dog/broken.png").write_bytes(b"nothing")
    options = OPTIONS | {"dtype": dtype}
    extract(photos, frozen("tiny"), tmp_path / "grown", **options, **first)
    done = summaries_of(photos, frozen("tiny"), tmp_path / "grown", **options, **then)
    assert {name: each.computed for name, each in done.items()} == {
        "train": 11 * computed,
        "test": 4 * computed,
    }
    extract(photos, frozen("tiny"), tmp_path / "whole", **options, **then)
    assert tree(tmp_path / "grown") == tree(tmp_path / "whole")
    assert CacheReader.open(tmp_path / "grown").split("train").failures().keys() == {10}


def test_a_split(photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> None:
    for split in ("train", "test"):
        extract(photos, frozen("tiny"), tmp_path / "grown", split=split, dtype="int8", **OPTIONS)
    extract(photos, frozen("tiny"), tmp_path / "whole", dtype="int8", **OPTIONS)
    assert tree(tmp_path / "grown") == tree(tmp_path / "whole")


def test_own_labels_stay_where_the_source_has_none(photos: Path, frozen: Model, tmp_path: Path) -> None:
    extract(photos, frozen("tiny"), tmp_path / "c", no_labels=True, **OPTIONS)
    (tmp_path / "l.csv").write_text("path,label\ncat/03.png,big\ndog/05.png,small\n")
    label(tmp_path / "c", tmp_path / "l.csv")
    add(photos, "train/cat/00a.png")
    extract(photos, frozen("tiny"), tmp_path / "c", no_labels=True, **OPTIONS)
    table: LabelTable = CacheReader.open(tmp_path / "c").labels
    assert table.class_names == ("big", "small")
    assert table.by_split["train"].tolist() == [-1, -1, -1, 0, -1, 1, -1, -1, -1, -1, -1]


class TestRefused:
    def test_a_sample_that_has_changed(self, photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        before = tree(tmp_path / "c")
        add(photos, "train/cat/03.png", "train/dog/99.png")
        with pytest.raises(CacheMismatch, match=r"another `content` of `cat/03.png`[\s\S]*1 of 10 samples"):
            extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        assert tree(tmp_path / "c") == before

    def test_a_sample_that_is_gone(self, photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        before = tree(tmp_path / "c")
        (photos / "train/dog/08.png").unlink()
        with pytest.raises(CacheError, match=r"`dog/08.png`[\s\S]*1 of 10[\s\S]*allow_removed=True"):
            extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        assert tree(tmp_path / "c") == before

    def test_a_smaller_limit(self, photos: Path, frozen: Model, tmp_path: Path) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        with pytest.raises(CacheError, match=r"no sample[\s\S]*`limit`"):
            extract(photos, frozen("tiny"), tmp_path / "c", limit=2, **OPTIONS)

    def test_views_of_one_split(self, photos: Path, frozen: Model, tmp_path: Path) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        with pytest.raises(CacheError, match="split `test`, which would lack the new views"):
            extract(photos, frozen("tiny"), tmp_path / "c", split="train", views="weak=1", **OPTIONS)

    @pytest.mark.parametrize("more", [{"views": "weak=1,seed=3"}, {"dtype": "float32"}, {"layers": "-2|-1"}])
    def test_what_would_change_what_is_there(
        self, photos: Path, frozen: Model, tmp_path: Path, more: dict[str, Any]
    ) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        with pytest.raises(CacheMismatch):
            extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS, **more)

    def test_fewer_views(self, photos: Path, frozen: Model, tmp_path: Path) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", views="weak=2", **OPTIONS)
        with pytest.raises(CacheMismatch, match=r"another `views.weak`"):
            extract(photos, frozen("tiny"), tmp_path / "c", views="weak=1", **OPTIONS)

    def test_another_writer(self, photos: Path, frozen: Model, tmp_path: Path) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        with held(storage_at(tmp_path / "c").lock_part("2-of-3")), pytest.raises(CacheError, match="writing"):
            extract(photos, frozen("tiny"), tmp_path / "c", views="weak=1", shard_of="1/3", **OPTIONS)


class TestRows:
    def test_removed_samples_are_marked(self, photos: Path, frozen: Model, tmp_path: Path) -> None:
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        for name in ("cat/01.png", "dog/09.png"):
            (photos / "train" / name).unlink()
        extract(photos, frozen("tiny"), tmp_path / "c", allow_removed=True, **OPTIONS)
        gone = dict.fromkeys((1, 9), "removed from the source")
        split = CacheReader.open(tmp_path / "c").split("train")
        assert split.failures() == gone
        assert split.status[:, 0].tolist() == [1, 2, *[1] * 7, 2]
        assert verify(tmp_path / "c", progress=False).whole
        # From now on that is known, and a new sample does not take their rows.
        add(photos, "train/cat/00a.png")
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        split = CacheReader.open(tmp_path / "c").split("train")
        assert (split.rows, split.failures()) == (11, gone)
        assert split.ids[1] == "cat/01.png"

    def test_repaired_samples_are_tried_again(
        self, photos: Path, frozen: Model, tmp_path: Path, tree: Tree, summaries_of: Summaries
    ) -> None:
        broken = photos / "train/cat/02.png"
        whole = broken.read_bytes()
        broken.write_bytes(whole[:50])
        extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        assert CacheReader.open(tmp_path / "c").split("train").failures().keys() == {2}
        broken.write_bytes(whole)
        with pytest.raises(CacheMismatch, match=r"cat/02.png[\s\S]*retry_failed=True"):
            extract(photos, frozen("tiny"), tmp_path / "c", **OPTIONS)
        extract(photos, frozen("tiny"), tmp_path / "c", retry_failed=True, **OPTIONS)
        extract(photos, frozen("tiny"), tmp_path / "whole", **OPTIONS)
        assert tree(tmp_path / "c") == tree(tmp_path / "whole")
        before = (tmp_path / "c/train/pooled/c/0/0/0").stat()
        extract(photos, frozen("tiny"), tmp_path / "c", retry_failed=True, **OPTIONS)
        assert (tmp_path / "c/train/pooled/c/0/0/0").stat() == before

    def test_from_the_command_line(
        self, photos: Path, frozen: Model, tmp_path: Path, featcache: Callable[..., Any]
    ) -> None:
        flags = ["--shard-size", "4", "--batch-size", 3, "--num-workers", 0]
        asked = ["extract", photos, "--model", frozen("tiny"), "--out", tmp_path / "c", *flags]
        featcache(*asked)
        (photos / "train/dog/08.png").unlink()
        add(photos, "train/dog/99.png")
        assert "--allow-removed" in featcache(*asked, code=1).output
        said = featcache(*asked, "--allow-removed").output
        assert "1 rows added to 10" in said
        assert "failed: dog/08.png: removed from the source" in said


@pytest.mark.slow
def test_killed_while_it_grows(photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> None:
    """At any call of the system: the old cache, or the grown one with rows missing; a rerun ends the same."""
    out, options = tmp_path / "c", OPTIONS | {"views": "weak=1"}
    extract(photos, frozen("tiny"), tmp_path / "before", **OPTIONS)
    extract(photos, frozen("tiny"), tmp_path / "whole", **options)
    before, whole = tree(tmp_path / "before"), tree(tmp_path / "whole")
    program = """
import os, signal, sys
from pathlib import Path
from featcache import files, replacing
from featcache.stages.extract import extract
left = [int(sys.argv[1])]
def counting(call):
    def counted(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counted
os.replace, os.link, os.fsync = map(counting, (os.replace, os.link, os.fsync))
replacing._exchanged = counting(replacing._exchanged)
os.unlink = counting(os.unlink)
extract(sys.argv[2], sys.argv[3], sys.argv[4], views="weak=1", shard_size="4", batch_size=3, num_workers=0,
        progress=False)
"""
    killed, step = 0, 1
    while True:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "before", out)
        command = [sys.executable, "-c", program, str(step), photos, frozen("tiny"), out]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        cache = CacheReader.open(out)
        assert cache.spec.views.weak == 1 or tree(out) == before | {
            name: data for name, data in tree(out).items() if name == "replaced"
        }
        for name in cache.split_names:
            np.testing.assert_array_equal(pooled(out, name), pooled(tmp_path / "before", name))
        extract(photos, frozen("tiny"), out, **options)
        assert tree(out) == whole
        assert {path.name for path in tmp_path.iterdir()} == {"photos", "c", "before", "whole"}
        step += 17
    assert killed >= 4
