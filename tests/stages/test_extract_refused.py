"""`extract` refuses unusable input before anything is written, with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from PIL import Image

from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, ConfigError, EncoderError, FeatcacheError
from featcache.specs import ViewSpec
from featcache.stages.extract import dry_run, extract

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Request = Callable[..., dict[str, Any]]
Tree = Callable[[Path], Mapping[str, bytes]]
Values = Callable[..., NDArray[Any]]
VIEWS = ViewSpec(weak=1, strong=2)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_left_alone(request_of: Request, tree: Tree, overwrite: bool) -> None:
    out = request_of()["out"]
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match="is not a featcache cache; it is left as it is"):
        extract(**request_of(), overwrite=overwrite)
    assert tree(out) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("overflow", "float16 cannot hold 1e+05, in `tokens` of sample dog/07.png (row 7)"),
        ("nan", "the model gave nan, in `tokens` of sample dog/07.png (row 7)"),
        ("inf", "the model gave -inf, in `tokens` of sample dog/07.png (row 7)"),
    ],
)
def test_a_value_that_is_not_finite_stops_with_its_sample(
    request_of: Request, photos: Path, frozen: Model, factory: str, said: str
) -> None:
    Image.new("RGB", (20, 20), "white").save(photos / "train" / "dog" / "07.png")
    request = request_of(model=frozen(factory), batch_size=2)
    with pytest.raises(CacheError) as error:
        extract(**request)
    assert said in str(error.value)
    assert "next:" in str(error.value)
    assert not list(request["out"].rglob("*.partial"))
    split = CacheReader.open(request["out"]).split("train")
    assert [unit.block for unit in split.missing()] == [1, 2]
    if factory == "overflow":  # what the message says to do next
        extract(**request, dtype="bfloat16", overwrite=True)
        CacheReader.open(request["out"]).split("train").check()


@pytest.mark.parametrize("factory", ["wrong_grid", "one_answer", "flat_pooled", "broken", "ragged"])
def test_a_model_that_does_not_fit_leaves_nothing_behind(
    request_of: Request, frozen: Model, tmp_path: Path, factory: str
) -> None:
    out = tmp_path / "deep" / "down" / "c.zarr"
    with pytest.raises(EncoderError):
        extract(**request_of(model=frozen(factory), out=out))
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shard_size": "big"}, "shard_size"),
        ({"tokens": "some"}, "tokens"),
        ({"tokens": "grid:9x9"}, "the grid can only become smaller"),
        ({"layers": (-3,)}, "no layer -3"),
        ({"model": "python:absent.py:tiny"}, "no such Python file"),
        ({"model": "tiny"}, "FAMILY:NAME"),
        ({"source": "absent"}, "no such file or folder"),
        ({"source": "s3://bucket/photos"}, "s3://bucket/photos"),
        ({"source": "folder:s3://bucket/photos"}, "s3://bucket/photos"),
        ({"out": "s3://bucket/c.zarr"}, "s3://bucket/c.zarr"),
        ({"colour": "red"}, "colour"),
        ({"device": "abacus"}, "no such device"),
        ({"label_column": "y"}, "label_column"),
    ],
)
def test_a_request_that_does_not_fit_leaves_nothing_behind(
    request_of: Request, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    for command in (extract, dry_run):
        with pytest.raises(FeatcacheError, match=said):
            command(**request_of(**{"out": tmp_path / "deep" / "c.zarr"} | change))
    assert not (tmp_path / "deep").exists()
    assert not list(Path.cwd().glob("s3:*"))


def test_a_model_of_text_does_not_read_images(request_of: Request, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match="a source of text samples") as error:
        extract(**request_of(source=str(tmp_path / "text.txt")))
    assert "frozen_modules.py:tiny reads" in str(error.value)


def test_a_split_that_cannot_be_read_at_all_is_an_error(request_of: Request, photos: Path) -> None:
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"not an image")
    with pytest.raises(CacheError, match=r"4 samples of `test`[\s\S]*not an image"):
        extract(**request_of())
    CacheReader.open(request_of()["out"]).split("train").check()


def test_a_dry_run_tells_shape_and_bytes_and_writes_nothing(
    request_of: Request, summaries_of: Request, tmp_path: Path, frozen: Model
) -> None:
    options = {"model": frozen("wide"), "views": ViewSpec(weak=1), "layers": (-1, -2), "shard_size": "8"}
    request = request_of(source="digits", limit=60, out=tmp_path / "deep" / "c.zarr", **options)
    shapes, estimates = dry_run(**request)
    assert not (tmp_path / "deep").exists()
    summaries = summaries_of(**request)
    cache = CacheReader.open(request["out"])
    assert cache.shapes == shapes
    assert {name: (e.rows, e.views) for name, e in estimates.items()} == {
        "train": (60, 2),
        "test": (60, 2),
    }
    assert len(list((request["out"] / "train" / "tokens" / "c").iterdir())) == 8
    told = sum(estimate.nbytes for estimate in estimates.values())
    assert abs(told - cache.nbytes()) < 0.02 * cache.nbytes()
    assert sum(summary.nbytes for summary in summaries.values()) <= cache.nbytes()
    assert all(0 < estimate.seconds < 120 for estimate in estimates.values())


def test_a_disk_that_is_too_small_is_refused_unless_the_cache_is_there_already(
    request_of: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(**request_of(out=tmp_path / "whole.zarr"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))  # type: ignore[attr-defined]
    for command in (extract, dry_run):
        with pytest.raises(
            CacheError, match=r"the disk cannot hold the cache[\s\S]*100 B free[\s\S]*4\.. kB"
        ):
            command(**request_of())
        assert not request_of()["out"].exists()
        command(**request_of(out=tmp_path / "whole.zarr"))
        with pytest.raises(CacheError, match="cannot hold"):  # as the old cache stays until the end
            command(**request_of(out=tmp_path / "whole.zarr", tokens="cls"), overwrite=True)
