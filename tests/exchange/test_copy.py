"""A copy has the very bytes of what it copies; a merge of parts is the whole again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.cache.quantise import dequantise
from featcache.cache.reader import CacheReader, sample_digests
from featcache.errors import CacheError, CacheMismatch, ConfigError, EncoderError
from featcache.exchange.options import CopyOptions
from featcache.stages.copy import copy, merge, run_copy, run_merge
from featcache.stages.extract import extract
from featcache.stages.verify import verify

Make = Callable[..., Path]
Tree = Callable[[Path], Mapping[str, bytes]]
LAYERS: dict[str, Any] = {"layers": (-1, -2), "weak": 1, "strong": 1}


def values(cache: Path, split: str, name: str) -> Any:
    """Of all rows and views, as float32 where they are int8."""
    opened = CacheReader.open(cache)
    found = zarr.open_array(cache / split / name, mode="r")[:]
    std = next((layer.std for layer in opened.shapes.layers if name == "tokens"), ())
    if found.dtype != np.int8:
        return found
    scale = zarr.open_array(cache / split / "token_scale", mode="r")[:]
    return dequantise(found, scale, np.array(std, np.float32))


def without_root(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files but those that tell where the cache comes from."""
    return {k: v for k, v in files.items() if k != "zarr.json" and not k.endswith("rows.json")}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
@pytest.mark.parametrize("mask", [False, True])
def test_a_whole_copy_has_the_same_files(
    make_cache: Make, tmp_path: Path, tree: Tree, dtype: str, mask: bool
) -> None:
    failed = {"train": (3, 17)}
    whole = make_cache(tmp_path / "c", dtype=dtype, mask=mask, text=True, failed=failed, **LAYERS)
    copy(whole, tmp_path / "copy", progress=False)
    assert without_root(tree(tmp_path / "copy")) == without_root(tree(whole))
    assert CacheReader.open(tmp_path / "copy").fingerprint == CacheReader.open(whole).fingerprint
    assert CacheReader.open(tmp_path / "copy").split("train").failures().keys() == {3, 17}
    assert verify(tmp_path / "copy", progress=False).whole
    before = tree(tmp_path / "copy")
    assert not any(run_copy(whole, tmp_path / "copy", CopyOptions()).written.values())
    assert tree(tmp_path / "copy") == before


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_part(make_cache: Make, tmp_path: Path, dtype: str) -> None:
    labels = {"train": [row % 3 for row in range(30)], "test": [0, -1, 2, 1]}
    whole = make_cache(
        tmp_path / "c", dtype=dtype, text=True, splits=labels, failed={"train": (4,)}, **LAYERS
    )
    options = {"classes": "dog|owl", "views": "strong=0", "layers": "-2"}
    part = copy(whole, tmp_path / "part", progress=False, **options)
    rows = [row for row in range(30) if row % 3]
    split = CacheReader.open(part.path).split("train")
    assert split.views == ("eval", "weak0")
    assert split.ids == [f"train/{row:03}.png" for row in rows]
    assert split.class_names == ("dog", "owl")
    assert split.labels.tolist() == [row % 3 - 1 for row in rows]
    assert split.failures() == {rows.index(4): "truncated JPEG"}
    for name, theirs in (("tokens", "tokens_layer-2"), ("pooled", "pooled")):
        raw = zarr.open_array(whole / "train" / theirs, mode="r")[:][rows][:, :2]
        np.testing.assert_array_equal(zarr.open_array(part.path / "train" / name, mode="r")[:], raw)
    assert CacheReader.open(part.path).split("test").ids == ["test/002.png", "test/003.png"]
    text = CacheReader.open(whole).text_of(("dog", "owl"))
    np.testing.assert_array_equal(CacheReader.open(part.path).class_text, text)


def test_rows_by_number_and_by_id(make_cache: Make, tmp_path: Path) -> None:
    whole = make_cache(tmp_path / "c")
    first = copy(whole, tmp_path / "first", rows=5, split="train", progress=False)
    assert [*first.splits] == ["train"]
    assert first["train"].ids == [f"train/{row:03}.png" for row in range(5)]
    (tmp_path / "ids.txt").write_text("train/007.png\ntrain/002.png\ntest/001.png\n")
    some = copy(whole, tmp_path / "some", rows=tmp_path / "ids.txt", progress=False)
    assert [some[name].ids for name in ("train", "test")] == [
        ["train/002.png", "train/007.png"],
        ["test/001.png"],
    ]


def test_tokens_are_averaged_as_in_an_extraction(tmp_path: Path, frozen: Callable[[str], str]) -> None:
    options: dict[str, Any] = {"limit": 12, "dtype": "float32", "layers": "-1|-2", "num_workers": 0}
    extract("digits", frozen("tiny"), tmp_path / "all", **options)
    for tokens in ("grid:2x2", "cls", "patch", "pooled"):
        made = extract("digits", frozen("tiny"), tmp_path / "made", tokens=tokens, **options, overwrite=True)
        copied = copy(tmp_path / "all", tmp_path / "copied", tokens=tokens, progress=False, overwrite=True)
        one, other = CacheReader.open(made.path), CacheReader.open(copied.path)
        assert one.fingerprint == other.fingerprint
        assert one.shapes == other.shapes
        for name in one.split("train").arrays:
            theirs = values(made.path, "train", name)
            np.testing.assert_allclose(values(copied.path, "train", name), theirs, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            torch.from_numpy(sample_digests(one.split("test")).astype(np.int64)),
            torch.from_numpy(sample_digests(other.split("test")).astype(np.int64)),
        )


def test_another_type(make_cache: Make, tmp_path: Path) -> None:
    whole = make_cache(tmp_path / "c", dtype="float32")
    exact = values(whole, "train", "tokens")
    half = copy(whole, tmp_path / "half", dtype="float16", progress=False)
    np.testing.assert_array_equal(values(half.path, "train", "tokens"), exact.astype(np.float16))
    small = copy(whole, tmp_path / "small", dtype="int8", progress=False)
    std = np.array(CacheReader.open(small.path).shapes.layers[0].std)
    np.testing.assert_allclose(std, np.sqrt((exact[:, 0] ** 2).mean((0, 1))), rtol=1e-5)
    assert np.abs(values(small.path, "train", "tokens") - exact).max() < 0.05
    again = copy(small.path, tmp_path / "again", dtype="float32", progress=False)
    np.testing.assert_array_equal(
        values(again.path, "train", "tokens"), values(small.path, "train", "tokens")
    )


def test_a_copy_grows_from_its_source(tmp_path: Path, frozen: Callable[[str], str]) -> None:
    options: dict[str, Any] = {"shard_size": "4", "num_workers": 0, "split": "test"}
    extract("digits", frozen("tiny"), tmp_path / "c", **options)
    copy(tmp_path / "c", tmp_path / "part", rows=10, progress=False)
    grown = extract("digits", frozen("tiny"), tmp_path / "part", **options)
    assert grown["test"].ids == CacheReader.open(tmp_path / "c").split("test").ids
    np.testing.assert_allclose(
        values(tmp_path / "part", "test", "pooled"), values(tmp_path / "c", "test", "pooled"), atol=1e-3
    )


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 29), min_size=1, max_size=3, unique=True).map(sorted),
    dtype=st.sampled_from(["float16", "int8"]),
)
def test_parts_together_are_the_whole(
    make_cache: Make, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    labels = {"train": [row * 3 // 30 for row in range(30)]}
    whole = make_cache(folder / "c", dtype=dtype, splits=labels, text=True, failed={"train": (9,)}, weak=1)
    ids, parts = CacheReader.open(whole).split("train").ids, []
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, 30], strict=True)):
        (folder / "ids").write_text("\n".join(ids[start:stop]))
        parts.append(copy(whole, folder / str(number), rows=folder / "ids", progress=False).path)
    merge(parts, folder / "merged", progress=False)
    merged = CacheReader.open(folder / "merged")
    for name in ("tokens", "pooled"):
        np.testing.assert_array_equal(values(folder / "merged", "train", name), values(whole, "train", name))
    split = merged.split("train")
    assert (split.ids, split.class_names) == (ids, ("cat", "dog", "owl"))
    assert split.labels.tolist() == labels["train"]
    assert split.failures() == {9: "truncated JPEG"}
    np.testing.assert_array_equal(merged.class_text, CacheReader.open(whole).class_text)
    shutil.rmtree(folder)


def test_splits_and_classes_are_united(make_cache: Make, tmp_path: Path) -> None:
    one = make_cache(tmp_path / "one", splits={"train": [0, 1]}, classes=("cat", "dog"))
    other = make_cache(tmp_path / "other", splits={"new": [1, 0, -1]}, classes=("dog", "owl"), weak=0)
    merged = merge([one, other], tmp_path / "m", progress=False)
    assert merged.classes == ("cat", "dog", "owl")
    assert {name: merged[name].labels.tolist() for name in merged.splits} == {
        "new": [2, 1, -1],
        "train": [0, 1],
    }
    assert [each["fingerprint"] for each in CacheReader.open(merged.path).provenance["merged"]] == [
        CacheReader.open(path).fingerprint for path in (one, other)
    ]


def test_int8_of_two_extractions(make_cache: Make, tmp_path: Path) -> None:
    one = make_cache(tmp_path / "one", splits={"train": [0, 1]}, dtype="float32")
    parts = [
        copy(one, tmp_path / "a", dtype="int8", progress=False).path,
        copy(
            make_cache(tmp_path / "b32", splits={"other": [0, 1, 2]}, dtype="float32"),
            tmp_path / "b",
            dtype="int8",
            progress=False,
        ).path,
    ]
    assert CacheReader.open(parts[0]).shapes != CacheReader.open(parts[1]).shapes
    merged = merge(parts, tmp_path / "m", progress=False)
    np.testing.assert_allclose(
        values(merged.path, "other", "tokens"), values(parts[1], "other", "tokens"), atol=0.05
    )


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"split": "trian"}, "train"),
            ({"classes": "cat|dgo"}, "dog"),
            ({"views": "weak=3"}, "at most 1"),
            ({"views": "crop=1"}, "weak=N,strong=N"),
            ({"layers": "-4"}, "-1|-2"),
            ({"tokens": "grid:4x4"}, "grid"),
            ({"rows": "nowhere.txt"}, "nowhere.txt"),
            ({"rows": "0"}, "0 rows"),
            ({"dtype": "fp16"}, "float16"),
        ],
    )
    def test_what_is_not_there(
        self, make_cache: Make, tmp_path: Path, featcache: Callable[..., Any], options: Any, said: str
    ) -> None:
        whole = make_cache(tmp_path / "c", **LAYERS)
        with pytest.raises((ConfigError, EncoderError)) as caught:
            copy(whole, tmp_path / "out", progress=False, **options)
        assert said in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_an_incomplete_cache(self, make_cache: Make, tmp_path: Path) -> None:
        whole = make_cache(tmp_path / "c", unwritten=1)
        with pytest.raises(CacheError, match="not complete"):
            copy(whole, tmp_path / "out", progress=False)

    def test_a_damaged_shard(self, make_cache: Make, tmp_path: Path) -> None:
        whole = make_cache(tmp_path / "c")
        shard = next(whole.glob("train/tokens/c/1/*/*/*"))
        data = bytearray(shard.read_bytes())
        data[100] ^= 4
        shard.write_bytes(data)
        with pytest.raises(CacheError, match="crc32c"):
            copy(whole, tmp_path / "out", progress=False)
        assert not CacheReader.open(tmp_path / "out").split("train").complete()

    def test_itself_and_another_cache(self, make_cache: Make, tmp_path: Path) -> None:
        whole = make_cache(tmp_path / "c")
        with pytest.raises(ConfigError, match="is one of the caches"):
            copy(whole, tmp_path / "c", progress=False)
        other = make_cache(tmp_path / "other", dtype="float16")
        with pytest.raises(CacheMismatch, match="dtype"):
            copy(whole, other, progress=False)

    def test_a_merge_of_others(self, make_cache: Make, tmp_path: Path) -> None:
        one, other = make_cache(tmp_path / "one"), make_cache(tmp_path / "other", dtype="float16")
        with pytest.raises(CacheMismatch, match="another `dtype`"):
            merge([one, other], tmp_path / "m", progress=False)
        with pytest.raises(CacheError, match=r"sample `test/000.png` is in two[\s\S]*one[\s\S]*twin"):
            merge([one, make_cache(tmp_path / "twin")], tmp_path / "m", progress=False)
        with pytest.raises(ConfigError, match="two or more"):
            run_merge([one], tmp_path / "m")
        assert not (tmp_path / "m").exists()


def test_from_the_command_line(make_cache: Make, tmp_path: Path, featcache: Callable[..., Any]) -> None:
    whole = make_cache(tmp_path / "c")
    said = featcache("copy", whole, tmp_path / "a", "--rows", "10", "--split", "train").output
    assert "train: 10 rows, 10 written now" in said
    assert (
        "all there already"
        in featcache("copy", whole, tmp_path / "a", "--rows", "10", "--split", "train").output
    )
    featcache("copy", whole, tmp_path / "b", "--split", "test")
    assert (
        "test: 18 rows" in featcache("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "m").output
    )
    assert "error" in featcache("copy", whole, tmp_path / "x", "--tokens", "grid:9x9", code=1).output
