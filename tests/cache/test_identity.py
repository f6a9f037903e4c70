"""A cache of something else is refused by the name of what differs; a cache of the same is continued."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from featcache.cache.reader import CacheReader
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, CacheMismatch
from featcache.specs import EncoderSpec, ViewSpec


def _encoder(**changes: str) -> EncoderSpec:
    fields = {"name": "synthetic", "weights": "0" * 64, "modality": "image", "preprocess": "none"}
    return EncoderSpec.parse(fields | {"norm": "none", "projection": "none"} | changes)


CHANGES: list[tuple[str, dict[str, Any], str, str]] = [
    ("format", {"format": 4}, "3", "4"),
    ("encoder.name", {"encoder": _encoder(name="other")}, "synthetic", "other"),
    ("encoder.weights", {"encoder": _encoder(weights="1" * 64)}, "0" * 64, "1" * 64),
    ("encoder.modality", {"encoder": _encoder(modality="text")}, "image", "text"),
    *(
        (f"encoder.{name}", {"encoder": _encoder(**{name: "other"})}, "none", "other")
        for name in ("preprocess", "norm", "projection")
    ),
    ("layers[1]", {"layers": (-1, -3)}, "-2", "-3"),
    ("tokens", {"tokens": "grid:2x2"}, "all", "grid:2x2"),
    ("dtype", {"dtype": "float16"}, "float32", "float16"),
    ("amp", {"amp": "bfloat16"}, "float32", "bfloat16"),
    *(
        (
            f"views.{name}",
            {"views": ViewSpec.parse({"weak": 1, "strong": 1} | {name: value})},
            str(there),
            str(value),
        )
        for name, there, value in [
            ("weak", 1, 2),
            ("strong", 1, 0),
            ("flip", 0.5, 0.25),
            ("crop", 0.6, 0.5),
            ("magnitude", 9, 10),
            ("num_ops", 2, 3),
            ("erase", 0.25, 0.5),
            ("dropout", 0.1, 0.2),
            ("seed", 0, 1),
        ]
    ),
]


def test_every_field_is_tried() -> None:
    tried = {name.split("[")[0] for name, *_ in CHANGES}
    fields = {*CacheSpec.model_fields} - {"encoder", "views"}
    assert tried == fields | {f"encoder.{name}" for name in EncoderSpec.model_fields} | {
        f"views.{name}" for name in ViewSpec.model_fields
    }


@pytest.mark.parametrize(("field", "change", "there", "here"), CHANGES, ids=[change[0] for change in CHANGES])
def test_another_spec_is_refused_by_field(
    whole: Path, synthetic: ModuleType, field: str, change: dict[str, Any], there: str, here: str
) -> None:
    asked = synthetic.spec(**change)
    assert asked.fingerprint() != synthetic.spec().fingerprint()
    with pytest.raises(CacheMismatch) as error, CacheWriter(whole, asked):
        pass
    assert f"`{field}`" in error.value.what
    assert str(whole) in error.value.what
    assert (error.value.got or "").startswith(f"{there} ")
    assert (error.value.expected or "").startswith(f"{here} ")
    assert "out" in (error.value.hint or "")
    assert "overwrite=True" in (error.value.hint or "")
    assert not whole.with_name("whole.zarr.lock").exists()


def test_several_differences_are_all_named_and_long_ones_cut(whole: Path, synthetic: ModuleType) -> None:
    layers = tuple(range(-1000, 0))
    with pytest.raises(CacheMismatch, match=r"`layers` .*dtype"):
        CacheWriter(whole, synthetic.spec(dtype="float16", layers=layers))
    with pytest.raises(CacheMismatch, match=r"-997, .*\.\.\. \(1000 "):
        CacheWriter(whole, synthetic.spec(layers=layers))


@pytest.mark.parametrize(
    ("split", "field"),
    [
        (SplitSpec(content="digest of other files", rows=14), "content"),
        (SplitSpec(content="digest of train", rows=13), "rows"),
    ],
)
def test_another_source_is_refused(whole: Path, synthetic: ModuleType, split: SplitSpec, field: str) -> None:
    ids = [str(row) for row in range(split.rows)]
    with (
        CacheWriter(whole, synthetic.spec()) as writer,
        pytest.raises(CacheMismatch, match=f"train .*`{field}`"),
    ):
        writer.split("train", split, ids, synthetic.SHAPES)


def test_another_geometry_is_refused(whole: Path, synthetic: ModuleType) -> None:
    first, second = synthetic.SHAPES.layers
    shapes = Shapes(layers=(first, second.model_copy(update={"tokens": 6})), pooled=7, mask=True)
    with (
        CacheWriter(whole, synthetic.spec()) as writer,
        pytest.raises(CacheMismatch, match=r"`layers\[1\].tokens`\n +got: +5 .*\n +expected: +6"),
    ):
        writer.split("train", SplitSpec(content="digest of train", rows=1), ["a"], shapes)


def test_other_templates_are_refused_and_the_same_ones_kept(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write(tmp_path / "c.zarr")
    with CacheWriter(tmp_path / "c.zarr", synthetic.spec()) as writer:
        writer.class_text(np.ones((3, 7), np.float32), synthetic.CLASSES, synthetic.TEMPLATES)
        with pytest.raises(CacheMismatch, match="templates"):
            writer.class_text(np.ones((3, 7), np.float32), synthetic.CLASSES, ("a {}",))
        with pytest.raises(CacheError, match=r"2\n.* 3 "):
            writer.class_text(np.ones((2, 7), np.float32), synthetic.CLASSES, synthetic.TEMPLATES)
    assert np.array_equal(CacheReader.open(tmp_path / "c.zarr").class_text, np.eye(3, 7))


def test_the_same_is_continued_in_its_own_storage_layout(whole: Path, synthetic: ModuleType) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    synthetic.write(whole, shard_size="3")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    with CacheWriter(whole, synthetic.spec(), layout=LayoutSpec(shard_size="3")) as writer:
        assert writer.has_split("train")
        assert not writer.has_split("test")


def test_a_split_is_added_beside_another(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write(tmp_path / "c.zarr", names=("train",))
    synthetic.write(tmp_path / "c.zarr", names=("test",), rows=4, shard_size="2")
    cache = CacheReader.open(tmp_path / "c.zarr")
    assert cache.split_names == ("test", "train")
    assert cache.split("test").rows == 4
    for name in cache.split_names:
        cache.split(name).check()


def test_overwrite_replaces_the_cache_only_once_the_shapes_are_known(
    tmp_path: Path, synthetic: ModuleType
) -> None:
    path, other = tmp_path / "c.zarr", synthetic.spec(dtype="float16")
    synthetic.write(path)
    (path / "notes.txt").write_text("mine")
    with CacheWriter(path, other, overwrite=True) as writer:
        assert not writer.has_split("train")
    assert CacheReader.open(path).spec == synthetic.spec()
    synthetic.write(path, cache=other, overwrite=True, rows=3)
    assert CacheReader.open(path).spec == other
    assert CacheReader.open(path).split("train").rows == 3
    assert (path / "notes.txt").read_text() == "mine"
