"""A plan goes to another process; a block gives the same bytes in any order, any process, again and again."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, SourceError
from featcache.extraction.block import begun, extract_blocks
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions
from featcache.extraction.plan import ExtractionPlan, draft, prepare
from featcache.sources.base import digest_samples
from featcache.stages.extract import extract

PROGRAM = Path(__file__).with_name("extracting_blocks.py")
OPTIONS = {"views": "weak=1", "layers": "-1|-2", "shard_size": "3", "batch_size": 4, "num_workers": 0}
pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Tree = Callable[[Path], Mapping[str, bytes]]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def whole(photos: Path, frozen: Model, tmp_path: Path, tree: Tree) -> Mapping[str, bytes]:
    """The bytes that `extract` writes in one go."""
    extract(photos, frozen("tiny"), tmp_path / "whole.zarr", **OPTIONS)
    return tree(tmp_path / "whole.zarr")


def planned(source: Path, model: str, out: Path, **changes: Any) -> tuple[ExtractionPlan, Opened]:
    opened = Opened.of(source, model, ExtractOptions.of(OPTIONS | changes), "cpu")
    return prepare(opened, out), opened


def test_a_plan_writes_nothing(photos: Path, frozen: Model, tmp_path: Path) -> None:
    plan, opened = planned(photos, frozen("tiny"), tmp_path / "c.zarr", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert {name: split.rows for name, split in plan.splits.items()} == {"train": 10, "test": 4}
    assert plan.splits["test"].content == digest_samples(opened.splits["test"])
    assert all(len(array.std) == 8 for array in plan.shapes.layers)
    assert draft(opened, tmp_path / "c.zarr").splits == {}


def test_blocks_in_reverse_order_by_other_processes_give_the_bytes_of_extract(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, spawn: Spawn, whole: Mapping[str, bytes]
) -> None:
    plan, opened = planned(photos, frozen("tiny"), tmp_path / "c.zarr")
    with begun(plan, opened) as cache:
        blocks = plan.blocks(cache)
        names = [f"{block.split}:{block.rows.start}" for block in blocks]
        assert names == ["train:0", "train:3", "train:6", "train:9", "test:0", "test:3"]
        for name, value in (("plan", plan), ("blocks", blocks)):
            (tmp_path / name).write_bytes(pickle.dumps(value))
        files = [tmp_path / "plan", tmp_path / "blocks"]
        turned = names[::-1]
        workers = [spawn(*files, *turned[start::2], program=PROGRAM) for start in (0, 1)]
        for worker, views in zip(workers, (["2", "2", "6"], ["6", "6", "6"]), strict=True):
            said, errors = worker.communicate(timeout=120)
            assert (worker.returncode, errors, said.split()) == (0, "", views)
        assert plan.blocks(cache) == []
    assert tree(tmp_path / "c.zarr") == whole


def test_a_block_twice_gives_the_same_bytes(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, whole: Mapping[str, bytes]
) -> None:
    plan, opened = planned(photos, frozen("tiny"), tmp_path / "c.zarr")
    with begun(plan, opened) as cache:
        blocks = plan.blocks(cache)
        for block in (*blocks, *blocks[1:3]):
            before = {path: path.stat().st_ino for path in (tmp_path / "c.zarr").rglob("tokens/c/*/*/*/*")}
            assert extract_blocks(plan, [block], opened).views == len(block.rows) * 2
            changed = [path for path, inode in before.items() if path.stat().st_ino != inode]
        assert len(changed) == 2  # the second time, files are written again
    assert tree(tmp_path / "c.zarr") == whole


def test_of_a_block_only_what_is_missing_is_written(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, whole: Mapping[str, bytes]
) -> None:
    path = tmp_path / "whole.zarr"
    plan, opened = planned(photos, frozen("tiny"), path)
    (path / "train" / "tokens" / "c" / "1" / "1" / "0" / "0").unlink()
    with begun(plan, opened) as cache:
        (block,) = plan.blocks(cache)
        assert [(unit.block, unit.view) for unit in block.units] == [(1, 1)]
        assert extract_blocks(plan, [block], opened).views == 3
    assert tree(path) == whole


def test_a_plan_does_not_open_other_data_or_another_model(
    photos: Path, frozen: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(Path(frozen("").split(":")[1]).read_text())
    plan, _ = planned(photos, f"python:{file}:tiny", tmp_path / "c.zarr")
    assert plan.open().splits.keys() == {"train", "test"}
    plan = pickle.loads(pickle.dumps(plan))
    file.write_text(file.read_text().replace("def tiny(", "def small(").replace("def other(", "def tiny("))
    with pytest.raises(CacheError, match="weights"):
        plan.open()
    (photos / "test" / "cat" / "00.png").unlink()
    with pytest.raises(SourceError, match=r"`test`[\s\S]*3 samples[\s\S]*4 samples"):
        plan.open()


def test_provenance_is_stored_as_fields_without_the_place_of_the_cache(
    photos: Path, frozen: Model, tmp_path: Path, whole: Mapping[str, bytes]
) -> None:
    made = CacheReader.open(tmp_path / "whole.zarr").provenance
    assert (made["source"], made["model"]) == (str(photos), frozen("tiny"))
    assert (made["options"]["layers"], made["options"]["views"]["weak"]) == ([-1, -2], 1)
    assert "whole.zarr" not in str(made)
    assert "torch" in made["versions"]
