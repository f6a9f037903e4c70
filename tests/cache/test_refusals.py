"""Full disk, read-only folder, a second writer, values that do not fit: said in words, and nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader, read_attributes
from featcache.cache.spec import CacheSpec, LayoutSpec, SplitSpec
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.errors import CacheError, ConfigError

Start = Callable[..., "subprocess.Popen[str]"]
IDS = [f"img/{row}.png" for row in range(6)]


def _begun(writer: CacheWriter, synthetic: ModuleType) -> SplitWriter:
    source = SplitSpec(content="digest", rows=6)
    return writer.split("train", source, IDS, synthetic.SHAPES)


@pytest.fixture
def writer(tmp_path: Path, synthetic: ModuleType) -> Iterator[CacheWriter]:
    """A writer of float16 values."""
    with CacheWriter(tmp_path / "c.zarr", synthetic.spec(dtype="float16")) as open_writer:
        yield open_writer


def test_a_full_disk_is_explained_and_the_rerun_goes_on(
    tmp_path: Path, synthetic: ModuleType, start: Start
) -> None:
    path = tmp_path / "c.zarr"
    # The limit of a file's size stands in for the disk's.
    program = start(path, "--rows", 200, "--shard-size", 200, "--file-limit", 20000)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert re.search(rf"CacheError: the disk .*is full .*rows 0 to 199 of .*{path}/train\n", errors)
    assert "bytes free" in errors
    assert re.search(r"[1-9]\d+,\d\d\d more bytes", errors)
    assert "free some space" in errors
    assert not list(path.rglob("*.partial"))
    synthetic.write(path, rows=200)
    split = CacheReader.open(path).split("train")
    split.check()
    assert np.array_equal(split.array("pooled").gather(np.arange(50, 60), 2), synthetic.values(2, 50, 60, 7))


@pytest.mark.skipif(os.getuid() != 0, reason="gives up its rights, so must have some")
def test_a_read_only_folder_is_explained_to_others_than_root(start: Start) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = start(Path(folder, "c.zarr"), "--user", 65534)
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 1
        assert re.search(rf"CacheError: .*{folder}/c.zarr.lock", errors)
        assert "Permission denied" in errors
        assert "out" in errors


def test_a_place_below_a_file_is_explained(tmp_path: Path, synthetic: ModuleType) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CacheError, match=r"c\.zarr\.lock[\s\S]*out"):
        CacheWriter(tmp_path / "file" / "c.zarr", synthetic.spec())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "zarr"])
def test_what_is_not_a_cache_is_left_alone(
    tmp_path: Path, synthetic: ModuleType, kind: str, overwrite: bool
) -> None:
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        content = '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
        (path / ("zarr.json" if kind == "zarr" else "notes.txt")).write_text(content)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CacheError, match=f"{path} .*not a featcache cache"):
        CacheWriter(path, synthetic.spec(), overwrite=overwrite)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_an_empty_folder_is_taken(tmp_path: Path, synthetic: ModuleType) -> None:
    (tmp_path / "c.zarr").mkdir()
    synthetic.write(tmp_path / "c.zarr")
    split = CacheReader.open(tmp_path / "c.zarr").split("train")
    split.check()
    assert split.complete()


def test_a_second_writer_is_told_who_is_at_work(tmp_path: Path, synthetic: ModuleType, start: Start) -> None:
    path = tmp_path / "c.zarr"
    program = start(path, "--pause", 30)
    while not (path / "train").exists():
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)
    with pytest.raises(CacheError, match=str(path)) as error:
        CacheWriter(path, synthetic.spec())
    assert f"process {program.pid} on " in str(error.value)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    with CacheWriter(path, synthetic.spec()):
        assert str(os.getpid()) in path.with_name("c.zarr.lock").read_text()
        with pytest.raises(CacheError, match=f"process {os.getpid()}"):
            CacheWriter(path, synthetic.spec())
    assert not path.with_name("c.zarr.lock").exists()


@pytest.mark.parametrize(
    ("name", "value", "said", "hint"),
    [
        ("tokens", 7.1e4, ("float16", "7.1e+04"), "dtype='bfloat16'"),
        ("tokens_layer-2", np.nan, ("model", "nan"), "amp='float32'"),
        ("pooled", -np.inf, ("model", "-inf"), "amp='float32'"),
    ],
)
def test_a_value_that_is_not_finite_stops_with_its_sample(
    writer: CacheWriter, synthetic: ModuleType, name: str, value: float, said: tuple[str, ...], hint: str
) -> None:
    split, batch = _begun(writer, synthetic), synthetic.batch(0, 2, 6)
    arrays = {"tokens": batch["tokens"][-1], "tokens_layer-2": batch["tokens"][-2], "pooled": batch["pooled"]}
    arrays[name].reshape(4, -1)[2, 1] = value
    unit = split.missing()[0]
    out = split.begin(unit)
    out.append(**synthetic.batch(0, 0, 2))
    with pytest.raises(CacheError) as error:
        out.append(**batch)
    for fact in (*said, f"`{name}`", "img/4.png", "row 4", hint):
        assert fact in str(error.value)
    assert split.missing()[0] == unit
    assert not list(writer.path.rglob("*.partial"))


def test_a_failed_row_may_hold_anything(writer: CacheWriter, synthetic: ModuleType) -> None:
    split, batch = _begun(writer, synthetic), synthetic.batch(0, 0, 6)
    batch["pooled"][3] = np.nan
    kept = batch["pooled"].copy()
    with split.begin(split.missing()[0]) as out:
        out.append(**batch)
        out.commit()
    split.wait()
    assert np.array_equal(batch["pooled"], kept, equal_nan=True)
    assert CacheReader.open(writer.path).split("train").failures() == {3: "truncated JPEG"}


def test_batches_of_another_shape_are_refused(writer: CacheWriter, synthetic: ModuleType) -> None:
    split = _begun(writer, synthetic)
    unit = split.missing()[0]
    good = synthetic.batch(0, 0, 6)
    wrong: list[dict[str, Any]] = [
        good | {"tokens": {-1: good["tokens"][-1]}},
        good | {"tokens": good["tokens"] | {-1: good["tokens"][-1][:, :4]}},
        good | {"pooled": good["pooled"][:5]},
        good | {"mask": None},
    ]
    for batch in wrong:
        with pytest.raises(CacheError, match="shapes"):
            split.begin(unit).append(**batch)
    full = split.begin(unit)
    full.append(**good)
    with pytest.raises(CacheError, match="more rows"):
        full.append(**good)
    begun = split.begin(unit)
    begun.append(**synthetic.batch(0, 0, 2))
    with pytest.raises(CacheError, match=r"got: +2 rows\n +expected: +6 rows"):
        begun.commit()
    with split.begin(unit) as out:
        out.append(**good)
    assert split.missing()[0] == unit == Unit(0, 0, 0, 6)
    assert not list(writer.path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("name", "rows", "ids", "said"),
    [
        ("a/b", 6, IDS, "a/b"),
        ("class_text", 6, IDS, "class_text"),
        ("x.partial", 6, IDS, "x.partial"),
        ("train", 5, IDS, "5 rows, 6 ids"),
        ("train", 0, [], "0 rows, 0 ids"),
        ("train", 6, [*IDS[:5], IDS[1]], "img/1.png"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    writer: CacheWriter, synthetic: ModuleType, name: str, rows: int, ids: list[str], said: str
) -> None:
    with pytest.raises(CacheError, match=said):
        writer.split(name, SplitSpec(content="", rows=rows), ids, synthetic.SHAPES)
    assert not writer.path.exists()


def test_opening_what_is_no_cache(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(CacheError, match=r"c\.zarr\n +got: +no such folder"):
        CacheReader.open(tmp_path / "c.zarr")
    (tmp_path / "notes.txt").write_text("mine")
    for other in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(CacheError, match="something else"):
            CacheReader.open(other)
    with pytest.raises(ConfigError, match="s3:"):
        CacheReader.open("s3://bucket/c.zarr")
    with pytest.raises(TypeError):
        read_attributes(None)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="no split `tain`") as error:
        CacheReader.open(whole).split("tain")
    assert "did you mean `train`?" in str(error.value)
    with pytest.raises(CacheError, match="no array `token`"):
        CacheReader.open(whole).split("train").array("token")


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [
        ('"format": 3,\n      "fingerprint"', '"format": 9,\n      "fingerprint"', "another format"),
        ('"dtype": "float32"', '"dtype": "float8"', "description of the cache"),
    ],
)
def test_a_cache_of_another_format_or_a_damaged_one(
    tmp_path: Path,
    whole: Path,
    synthetic: ModuleType,
    reseal: Callable[[str], bytes],
    there: str,
    instead: str,
    said: str,
) -> None:
    shutil.copytree(whole, tmp_path / "c.zarr")
    text = (whole / "zarr.json").read_text()
    assert there in text
    (tmp_path / "c.zarr" / "zarr.json").write_bytes(reseal(text.replace(there, instead)))
    with pytest.raises(CacheError, match=said):
        CacheReader.open(tmp_path / "c.zarr")
    with pytest.raises(CacheError, match=said):
        CacheWriter(tmp_path / "c.zarr", synthetic.spec())
    synthetic.write(tmp_path / "c.zarr", overwrite=True)
    CacheReader.open(tmp_path / "c.zarr").split("train").check()


def test_specs_refuse_what_has_no_meaning(synthetic: ModuleType) -> None:
    for change in ({"tokens": "grid:0x2"}, {"tokens": "some"}, {"layers": ()}, {"dtype": "int4"}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            synthetic.spec(**change)
    assert CacheSpec.model_validate(synthetic.spec().model_dump(mode="json")) == synthetic.spec()
    assert "shard_size" not in CacheSpec.model_fields
    assert LayoutSpec().block_rows(197 * 768 * 2) == 384
