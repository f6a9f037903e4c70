"""What export writes, import reads back exactly: identity, values, views, layers, failures, labels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import featcache as fc
from featcache.cache.quantise import dequantise
from featcache.cache.reader import CacheReader
from featcache.cache.spec import SplitSpec
from featcache.cache.writer import CacheWriter
from featcache.specs import ViewSpec

FORMATS = ("h5", "npy", "parquet", "safetensors")
Bring = Callable[..., fc.Cache]


def round_trip(cache: Path, to: str) -> fc.Cache:
    out = fc.export(cache, cache.with_name("exported"), to=to, progress=False)  # type: ignore[arg-type]
    if to in ("h5", "safetensors"):
        out = out.rename(out.with_suffix(f".{to}"))
    return fc.import_embeddings(out, cache.with_name("back.zarr"), progress=False)


def require_same(one: CacheReader, two: CacheReader) -> None:
    """Compare all that a reader can see."""
    assert (one.fingerprint, one.shapes) == (two.fingerprint, two.shapes)
    assert one.labels.digest() == two.labels.digest()
    assert np.array_equal(one.class_text, two.class_text)  # type: ignore[arg-type]
    assert one.split_names == two.split_names
    for name in one.split_names:
        mine, theirs = one.split(name), two.split(name)
        assert (mine.spec, mine.ids, mine.failures()) == (theirs.spec, theirs.ids, theirs.failures())
        assert np.array_equal(mine.labels, theirs.labels)
        assert np.array_equal(mine.status, theirs.status)
        rows = np.arange(mine.rows)
        for array in mine.arrays:
            for view in range(len(mine.views)):
                left, right = (split.array(array).gather(rows, view) for split in (mine, theirs))
                assert left.tobytes() == right.tobytes(), (name, array, view)


@pytest.mark.parametrize("to", FORMATS)
def test_views_layers_masks_failures_and_class_texts(to: str, tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write(tmp_path / "c.zarr", names=("train", "test"))
    require_same(CacheReader.open(tmp_path / "c.zarr"), round_trip(tmp_path / "c.zarr", to))


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_is_explained_and_leaves_the_export_before(
    to: str, bring: Bring, made: ModuleType, tmp_path: Path, file_limit: Any, tree: Any
) -> None:
    cache = bring(made.hdf5(tmp_path / "mine", {"emb": np.ones((3000, 8), "f4")}), model="m")
    out = fc.export(cache, tmp_path / f"out.{to}", to=to, progress=False)  # type: ignore[arg-type]
    before = tree(tmp_path)
    with file_limit(20_000), pytest.raises(fc.FeatcacheError, match=r"full[\s\S]*File too large"):
        fc.export(cache, out, to=to, progress=False)  # type: ignore[arg-type]
    assert tree(tmp_path) == before


def test_wherever_a_disk_is_full_hdf5_says_so(bring: Bring, made: ModuleType, tmp_path: Path) -> None:
    """HDF5 reads back what it wrote: what stands in its place is no longer left to the memory allocator."""
    cache = bring(made.hdf5(tmp_path / "mine", {"emb": np.ones((1000, 2), "f4")}), model="m")
    whole = fc.export(cache, tmp_path / "whole.h5", to="h5", progress=False).stat().st_size
    limits = np.random.default_rng(0).integers(0, whole, 40).tolist()
    script = f"""
import resource, featcache as fc
for limit in {limits}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        fc.export({str(cache.path)!r}, {str(tmp_path / "out.h5")!r}, to="h5", progress=False)
    except fc.FeatcacheError as error:
        assert "full" in str(error) and "File too large" in str(error), error
    else:
        raise AssertionError(limit)
"""
    subprocess.run([sys.executable, "-c", script], env=os.environ | {"MALLOC_PERTURB_": "85"}, check=True)
    assert not (tmp_path / "out.h5").exists()


def test_a_label_outside_the_classes_is_refused(bring: Bring, made: ModuleType, tmp_path: Path) -> None:
    cache = bring(made.hdf5(tmp_path / "mine", {"emb": made.pooled(), "labels": made.LABELS}), model="m")
    out = fc.export(cache, tmp_path / "out.h5", to="h5", progress=False)
    with h5py.File(out, "r+") as file:
        file["train/labels"][0] = 99
    with pytest.raises(fc.FeatcacheError, match=r"labels[\s\S]*99"):
        fc.import_embeddings(out, tmp_path / "back.zarr", progress=False)
    assert not (tmp_path / "back.zarr").exists()


@st.composite
def caches(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.integers(1, 9))
    dtype = draw(st.sampled_from(["float16", "bfloat16", "float32"]))
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
    return {
        "rows": rows,
        "tokens": draw(st.integers(1, 4)),
        "dim": draw(st.integers(1, 5)),
        "dtype": dtype,
        "ragged": draw(st.booleans()),
        "only_pooled": draw(st.booleans()),
        "ids": draw(st.lists(text, min_size=rows, max_size=rows, unique=True)),
        "labels": draw(st.lists(st.sampled_from(["a", "b, c", "ü", ""]), min_size=rows, max_size=rows)),
        "scale": draw(st.sampled_from([1e-7, 1.0, 1e4])),
        "seed": draw(st.integers(0, 2**16)),
    }


def write(folder: Path, made: ModuleType, case: dict[str, Any]) -> Path:
    """Write a cache by importing what the case says."""
    rng, rows = np.random.default_rng(case["seed"]), case["rows"]
    shape = (rows, case["dim"]) if case["only_pooled"] else (rows, case["tokens"], case["dim"])
    values = (rng.standard_normal(shape) * case["scale"]).astype("float32")
    arrays = {"x": values, "ids": case["ids"], "labels": case["labels"]}
    if case["ragged"] and not case["only_pooled"]:
        arrays["mask"] = rng.integers(0, 2, shape[:2])
    path = made.hdf5(folder / "mine", arrays)
    fc.import_embeddings(path, folder / "c.zarr", progress=False, dtype=case["dtype"])
    return folder / "c.zarr"


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=caches(), to=st.sampled_from(FORMATS))
def test_any_small_cache(case: dict[str, Any], to: str, made: ModuleType) -> None:
    with TemporaryDirectory() as folder:
        cache = write(Path(folder), made, case)
        require_same(CacheReader.open(cache), round_trip(cache, to))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, made: ModuleType) -> Path:
    """The folder of a cache of pooled embeddings, exported to every format."""
    folder = tmp_path_factory.mktemp("exported")
    arrays = {"emb": made.pooled(), "ids": made.IDS, "labels": [*made.LABELS[:-1], ""]}
    fc.import_embeddings(made.hdf5(folder / "mine", arrays), folder / "c.zarr", progress=False)
    for to in FORMATS:
        fc.export(folder / "c.zarr", folder / f"out.{to}", to=to, progress=False)  # type: ignore[arg-type]
    return folder


def test_other_tools_read_an_export(exported: Path, made: ModuleType) -> None:
    """Pooled embeddings that are the only token are there once; labels say what they mean."""
    with h5py.File(exported / "out.h5") as file:
        assert sorted(file["train"]) == ["ids", "labels", "pooled", "status"]
        assert np.array_equal(file["train/pooled"], made.pooled())
        assert file["class_names"].asstr()[:].tolist() == sorted(made.NAMES)
    table = pq.read_table(exported / "out.parquet" / "train.parquet")
    assert table["labels"].to_pylist() == [*made.LABELS[:-1], None]
    assert np.array_equal(np.array(table["pooled"].to_pylist(), "f4"), made.pooled())
    assert np.array_equal(np.load(exported / "out.npy" / "train" / "pooled.npy"), made.pooled())
    assert np.load(exported / "out.npy" / "train" / "ids.npy").tolist() == made.IDS
    tensors = load_file(exported / "out.safetensors")
    assert np.array_equal(tensors["train/pooled"], made.pooled())


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_that_was_changed_needs_a_name_of_its_own(
    to: str, exported: Path, tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    """The identity of the model holds for its own values only."""
    path = tmp_path / f"out.{to}"
    (shutil.copytree if to in ("npy", "parquet") else shutil.copy)(exported / path.name, path)
    file = {"npy": path / "train" / "pooled.npy", "parquet": path / "train.parquet"}.get(to, path)
    data, first = bytearray(file.read_bytes()), made.pooled()[0].tobytes()
    data[data.index(first)] ^= 1
    file.write_bytes(data)
    with pytest.raises(fc.FeatcacheError, match="not those that featcache exported"):
        bring(path)
    cache = bring(path, model="mine, changed")
    assert (cache.spec.encoder.name, cache["train"].rows) == ("mine, changed", made.ROWS)


@pytest.mark.parametrize("to", FORMATS)
def test_only_an_earlier_export_is_replaced(to: Any, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out.{to}"
    fc.export(exported / "c.zarr", out, to=to, progress=False)
    fc.export(exported / "c.zarr", out, to=to, split="train", progress=False)
    if out.is_dir():
        (out / "notes.txt").write_text("mine")
    else:
        out.write_bytes(b"mine")
    with pytest.raises(fc.FeatcacheError, match="not an earlier export"):
        fc.export(exported / "c.zarr", out, to=to, progress=False)
    assert ((out / "notes.txt") if out.is_dir() else out).read_bytes() == b"mine"


def test_a_format_that_is_none(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(fc.FeatcacheError, match="did you mean `npy`"):
        fc.export(exported / "c.zarr", tmp_path / "x", to="npz", progress=False)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_int8_is_exported_as_the_values_that_a_training_sees(tmp_path: Path, synthetic: ModuleType) -> None:
    spec = synthetic.spec(dtype="int8", views=ViewSpec())
    shapes = synthetic.SHAPES.with_std({-1: np.linspace(1, 2, 8), -2: np.ones(6)})
    with CacheWriter(tmp_path / "c.zarr", spec) as writer:
        split = writer.split("train", SplitSpec(content="x", rows=3), list("abc"), shapes)
        with split.begin(split.missing()[0]) as out:
            out.append(**synthetic.batch(0, 0, 3))
            out.commit()
    cache, rows = CacheReader.open(tmp_path / "c.zarr"), np.arange(3)
    back = round_trip(tmp_path / "c.zarr", "safetensors")
    train, std = cache.split("train"), np.array(cache.shapes.layers[0].std, "float32")
    tokens, scale = (train.array(name).gather(rows, 0) for name in ("tokens", "token_scale"))
    assert back.spec == cache.spec.model_copy(update={"dtype": "float32"})
    assert np.array_equal(back["train"].array("tokens").gather(rows, 0), dequantise(tokens, scale, std))
    assert np.array_equal(back["train"].embeddings(), train.array("pooled").gather(rows, 0).astype("f4"))
