"""Bad input on the command line: exit code 1, a message of four parts, and good data is kept."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from PIL import Image

from featcache.cache.reader import FAILED, WRITTEN, CacheReader

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Command = Callable[..., Result]
FileLimit = Callable[[int], AbstractContextManager[None]]
Tree = Callable[[Path], Mapping[str, bytes]]


@pytest.fixture
def extract(featcache: Command, photos: Path, frozen: Model, tmp_path: Path) -> Callable[..., Result]:
    """`featcache extract` into `c.zarr`: of the photos through the tiny module, if nothing else is said."""

    def run(*more: object, source: object = photos, model: str = "tiny", code: int = 0) -> Result:
        fixed = [
            "--model",
            frozen(model),
            "--out",
            tmp_path / "c.zarr",
            "--num-workers",
            0,
            "--shard-size",
            4,
        ]
        return featcache("extract", source, *fixed, *more, code=code)

    return run


def _parts(result: Result) -> dict[str, str]:
    """The message's parts, on stderr; before it, `extract` says on stdout how it understood the source."""
    assert "error" not in result.stdout
    first, *others = result.stderr.splitlines()
    assert first.startswith("error: ")
    parts = {"what": first.removeprefix("error: ")}
    for line in others:
        name, colon, text = line.strip().partition(":")
        assert colon
        assert name in ("got", "expected", "next")
        parts[name] = text.strip()
    return parts


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_odd_images_are_read_and_damaged_ones_keep_their_row(
    extract: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    image, cats = Image.fromarray(pixels), photos / "train" / "cat"
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    frames = [image, Image.fromarray(255 - pixels)]
    odd = {
        "a_one_pixel.png": _encoded(image.crop((0, 0, 1, 1)), "PNG"),
        "b_gray.png": _encoded(image.convert("L"), "PNG"),
        "c_cmyk.jpg": _encoded(image.convert("CMYK"), "JPEG"),
        "d_16_bit.png": _encoded(deep, "PNG"),
        "e_animated.gif": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "f_empty.png": b"",
        "g_truncated.jpg": _encoded(image, "JPEG")[:-200],
        "h_text.jpg": b"this is not an image",
    }
    good = sorted(path.name for path in cats.iterdir())
    for name, data in odd.items():
        (cats / name).write_bytes(data)
    out = extract("--views", "weak=1,strong=1").stdout
    failed = [line.split(": ", 2)[1:] for line in out.splitlines() if line.startswith("  failed: ")]
    assert [name for name, _ in failed] == ["cat/f_empty.png", "cat/g_truncated.jpg", "cat/h_text.jpg"]
    assert failed[0][1] == "the file is empty (0 bytes)"
    assert "truncated" in failed[1][1]
    assert failed[2][1] == "not an image (20 bytes of no known format)"

    split = CacheReader.open(tmp_path / "c.zarr").split("train")
    split.check()
    names = [f"cat/{name}" for name in sorted([*odd, *good])]
    assert split.ids[: len(names)] == names
    assert split.labels.tolist() == [0] * len(names) + [1] * 5
    lost = [names.index(name) for name, _ in failed]
    kept = [row for row in range(split.rows) if row not in lost]
    assert (split.status[lost] == FAILED).all()
    assert (split.status[kept] == WRITTEN).all()
    tokens = split.array("tokens").gather(np.arange(split.rows), 2)
    assert not tokens[lost].any()
    assert np.abs(tokens[kept]).max((1, 2)).min() > 0


def test_nothing_but_damaged_images_is_an_error(
    extract: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:100])
    parts = _parts(extract(code=1))
    assert "no sample" in parts["what"]
    assert parts["got"].startswith("10 samples, the first one cat/00.png: ")
    assert "Pillow" in parts["next"]
    assert not (tmp_path / "c.zarr").exists()


def test_a_wrong_label_column_is_answered_by_the_columns_there_are(
    extract: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    image = (photos / "train" / "cat" / "00.png").read_bytes()
    table = pa.table({"image": [{"bytes": image, "path": "0.png"}] * 3, "animal": ["cat", "dog", "cat"]})
    pq.write_table(table, tmp_path / "set.parquet")
    parts = _parts(extract("--label-column", "animals", source=tmp_path / "set.parquet", code=1))
    assert parts["what"].endswith("has no column `animals`")
    assert parts["got"] == "columns image, animal"
    assert "did you mean `animal`" in parts["next"]
    extract("--label-column", "animal", source=tmp_path / "set.parquet")
    assert CacheReader.open(tmp_path / "c.zarr").split("train").labels.tolist() == [0, 1, 0]


def test_an_empty_folder_and_no_folder(extract: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    parts = _parts(extract(source=tmp_path / "empty", code=1))
    assert parts["what"] == "the folder is empty"
    assert parts["got"] == str(tmp_path / "empty")
    assert "a folder of images" in parts["expected"]
    parts = _parts(extract(source=tmp_path / "emtpy", code=1))
    assert parts["what"] == "there is no such file or folder"
    assert parts["next"] == "check the path"


def test_one_class_only_is_a_cache_all_the_same(
    extract: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.rmtree(photos / split / "dog")
    extract()
    cache = CacheReader.open(tmp_path / "c.zarr")
    assert cache.class_names == ("cat",)
    assert cache.split("train").labels.tolist() == [0] * 5


def test_a_cache_of_another_model_is_not_added_to(
    extract: Callable[..., Result], tmp_path: Path, tree: Tree
) -> None:
    extract()
    before = tree(tmp_path / "c.zarr")
    parts = _parts(extract(model="other", code=1))
    assert parts["what"].startswith(f"{tmp_path / 'c.zarr'} was made with another `encoder.name`")
    assert "encoder.weights" in parts["what"]
    assert parts["got"] == "python:frozen_modules.py:tiny in the cache"
    assert parts["expected"] == "python:frozen_modules.py:other as asked for"
    assert "--overwrite" in parts["next"]
    assert tree(tmp_path / "c.zarr") == before
    extract("--overwrite", model="other")
    assert CacheReader.open(tmp_path / "c.zarr").spec.encoder.name.endswith(":other")


@pytest.mark.parametrize("left", [None, 50])
def test_a_damaged_shard_stops_the_training_and_is_healed_by_the_extraction(
    extract: Callable[..., Result], featcache: Command, tmp_path: Path, tree: Tree, left: int | None
) -> None:
    extract()
    whole, shard = tree(tmp_path / "c.zarr"), tmp_path / "c.zarr" / "train" / "tokens" / "c" / "1" / "0/0/0"
    size = f"{shard.stat().st_size:,} bytes"
    if left is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:left])
    command = ["train", tmp_path / "c.zarr", "--objective", "knn", "--labels-per-class", 1]
    parts = _parts(featcache(*command, "--out", tmp_path / "run", code=1))
    assert str(shard) in parts["what"]
    assert parts["got"] == ("no such file" if left is None else "50 bytes")
    assert parts["expected"] == size
    assert "`featcache extract`" in parts["next"]
    assert not (tmp_path / "run").exists()
    assert "train: 10 rows, 4 views computed" in extract().stdout
    assert tree(tmp_path / "c.zarr") == whole
    featcache(*command, "--out", tmp_path / "run")


def test_a_place_that_cannot_be_written(
    featcache: Command, photos: Path, frozen: Model, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "c.zarr"
    parts = _parts(featcache("extract", photos, "--model", frozen("tiny"), "--out", out, code=1))
    assert parts["what"] == f"cannot write {out}.lock"
    assert "--out" in parts["next"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_loses_nothing_and_the_rerun_goes_on(
    extract: Callable[..., Result], tmp_path: Path, tree: Tree, file_limit: FileLimit
) -> None:
    extract(model="wide")
    whole = tree(tmp_path / "c.zarr")
    shutil.rmtree(tmp_path / "c.zarr")
    extract("--split", "test", model="wide")
    before, labels = tree(tmp_path / "c.zarr"), CacheReader.open(tmp_path / "c.zarr").split("test").labels
    with file_limit(100_000):
        parts = _parts(extract(model="wide", code=1))
    assert parts["what"].startswith("the disk (or a quota or file-size limit) is full while writing")
    assert "File too large" in parts["got"]
    assert "bytes free" in parts["got"]
    assert parts["expected"].startswith("room for ")
    assert "repeat the command" in parts["next"]
    assert not list(tmp_path.rglob("*.partial"))
    after = tree(tmp_path / "c.zarr")
    # The labels of both splits are one table, which is replaced as a whole.
    kept = {name: data for name, data in before.items() if not name.startswith("labels/")}
    assert {name: after[name] for name in kept} == kept
    assert CacheReader.open(tmp_path / "c.zarr").split("test").labels.tolist() == labels.tolist()
    extract(model="wide")
    assert tree(tmp_path / "c.zarr") == whole


def test_a_value_that_float16_cannot_hold_is_named(
    extract: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20), "white").save(photos / "train" / "dog" / "07.png")
    parts = _parts(extract(model="overflow", code=1))
    assert parts["what"] == "float16 cannot hold 1e+05, in `tokens` of sample dog/07.png (row 7)"
    assert parts["next"] == "--dtype bfloat16 or --dtype float32, with --overwrite"
    extract("--dtype", "bfloat16", "--overwrite", model="overflow")
    CacheReader.open(tmp_path / "c.zarr").split("train").check()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--views", "medium=1"], "`medium` in --views"),
        (["--views", "weak"], "--views"),
        (["--layer", "last"], "--layer"),
        (["--tokens", "some"], "--tokens"),
        (["--tokens", "grid:5x5"], "the grid can only become smaller"),
        (["--shard-size", "huge"], "--shard-size"),
        (["--split", "dev"], "the source has no such split"),
        (["--device", "abacus"], "no such device"),
    ],
)
def test_an_option_that_does_not_fit(
    extract: Callable[..., Result], tmp_path: Path, more: list[str], what: str
) -> None:
    parts = _parts(extract(*more, code=1))
    assert what in parts["what"]
    assert parts.keys() & {"expected", "next"}
    assert not (tmp_path / "c.zarr").exists()


def test_no_message_needs_a_traceback_where_metadata_is_damaged(
    extract: Callable[..., Result],
    featcache: Command,
    tmp_path: Path,
    reseal: Callable[[str], bytes],
) -> None:
    extract()
    path = tmp_path / "c.zarr" / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["featcache"]["format"] = 99
    path.write_bytes(reseal(json.dumps(content)))
    for result in (extract(code=1), featcache("info", tmp_path / "c.zarr", code=1)):
        assert _parts(result)["got"] == "99"
