"""The same extraction gives the same bytes; any other one is refused, or replaces them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.cache.reader import CacheReader
from featcache.encoders.open_clip import GLYPH_CLIP
from featcache.errors import CacheError, CacheMismatch
from featcache.specs import ViewSpec
from featcache.stages.extract import extract

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Request = Callable[..., dict[str, Any]]
Tree = Callable[[Path], Mapping[str, bytes]]
Values = Callable[..., NDArray[Any]]
VIEWS = ViewSpec(weak=1, strong=2)


def test_a_rerun_touches_nothing(
    request_of: Request, summaries_of: Request, clip: str, tmp_path: Path
) -> None:
    request = request_of(model=clip, views=VIEWS)
    extract(**request)
    before = {path: path.stat().st_mtime_ns for path in [request["out"], *request["out"].rglob("*")]}
    # Neither the batch nor the workers nor the shards that one would choose now make a difference.
    summaries = summaries_of(**request | {"batch_size": 2, "num_workers": 2, "shard_size": "3"})
    assert {path: path.stat().st_mtime_ns for path in [request["out"], *request["out"].rglob("*")]} == before
    assert [summary.computed for summary in summaries.values()] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "photos"]


def test_any_number_of_workers_gives_the_same_bytes(request_of: Request, tmp_path: Path, tree: Tree) -> None:
    trees = []
    for workers in (0, 1, 2):
        out = tmp_path / f"{workers}.zarr"
        extract(**request_of(out=out, views=VIEWS, batch_size=6, num_workers=workers, split="train"))
        trees.append(tree(out))
    assert trees[0] == trees[1] == trees[2]


def test_another_batch_size_gives_the_samevalues(values: Values, request_of: Request, tmp_path: Path) -> None:
    outs = [tmp_path / f"{size}.zarr" for size in (1, 64)]
    for out, size in zip(outs, (1, 64), strict=True):
        extract(**request_of(out=out, batch_size=size, views=VIEWS, dtype="float32"))
    for name in ("tokens", "pooled"):
        one, many = (values(out, name) for out in outs)
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["train/tokens/c/1/0/0/0", "train/pooled/c/0/2/0", "train/status/c/2/1"])
@pytest.mark.parametrize("left", [None, 3])
def test_a_lost_shard_is_made_again_byte_for_byte(
    request_of: Request, summaries_of: Request, tree: Tree, name: str, left: int | None
) -> None:
    request = request_of(views=VIEWS, batch_size=6)
    extract(**request)
    whole = tree(request["out"])
    file = request["out"] / name
    if left is None:
        file.unlink()
    else:
        file.write_bytes(whole[name][:left])
    summary = summaries_of(**request)["train"]
    assert tree(request["out"]) == whole
    assert 0 < summary.computed <= 4 * 4


CHANGES: list[tuple[str, dict[str, Any], str, str]] = [
    ("encoder.name", {"model": "other"}, "python:frozen_modules.py:tiny", "python:frozen_modules.py:other"),
    ("layers[0]", {"layers": (-2,)}, "-1", "-2"),
    ("tokens", {"tokens": "cls"}, "all", "cls"),
    ("views.crop", {"views": ViewSpec(crop=0.5)}, "0.6", "0.5"),
    ("views.seed", {"views": ViewSpec(seed=3)}, "0", "3"),
    ("dtype", {"dtype": "float32"}, "float16", "float32"),
    ("amp", {"amp": "bfloat16"}, "float32", "bfloat16"),
]


@pytest.mark.parametrize(("field", "change", "there", "here"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_cache_of_something_else_is_refused_by_field_and_replaced_on_request(
    request_of: Request, tree: Tree, frozen: Model, field: str, change: dict[str, Any], there: str, here: str
) -> None:
    extract(**request_of())
    before = tree(request_of()["out"])
    if "model" in change:
        change = {"model": frozen(change["model"])}
    with pytest.raises(CacheMismatch) as error:
        extract(**request_of(**change))
    lines = str(error.value).splitlines()
    assert f"another `{field}`" in lines[0]
    assert lines[1].startswith(f"  got:      {there}")
    assert lines[1].endswith(" in the cache")
    assert lines[2].startswith(f"  expected: {here}")
    assert lines[1].split()[1] != lines[2].split()[1]
    assert "overwrite" in lines[3]
    assert tree(request_of()["out"]) == before
    extract(**request_of(**change), overwrite=True)
    assert tree(request_of()["out"]) != before


def test_changed_content_is_refused(request_of: Request, photos: Path) -> None:
    extract(**request_of())
    shutil.copy(photos / "train" / "cat" / "01.png", photos / "train" / "cat" / "00.png")
    with pytest.raises(CacheMismatch, match="train was made with another `content`"):
        extract(**request_of())


def test_another_place_is_the_same_source_and_model(
    request_of: Request,
    summaries_of: Request,
    photos: Path,
    frozen: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract(**request_of())
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    file = shutil.copy(frozen("").split(":")[1], tmp_path / "frozen_modules.py")
    request = request_of(source=str(moved), model=f"python:{file}:tiny")
    assert [summary.computed for summary in summaries_of(**request).values()] == [0, 0]
    monkeypatch.chdir(tmp_path)
    request = request_of(source="./elsewhere", model="python:frozen_modules.py:tiny", out=Path("c.zarr"))
    assert [summary.computed for summary in summaries_of(**request).values()] == [0, 0]


def test_a_moved_model_is_the_same_model(request_of: Request, summaries_of: Request, tmp_path: Path) -> None:
    shutil.copytree(GLYPH_CLIP, tmp_path / "mine")
    extract(**request_of(model=f"open_clip:{tmp_path / 'mine'}"))
    (tmp_path / "models").mkdir()
    (tmp_path / "mine").rename(tmp_path / "models" / "mine")
    moved = f"open_clip:{tmp_path / 'models' / 'mine'}"
    assert [summary.computed for summary in summaries_of(**request_of(model=moved)).values()] == [0, 0]
    assert CacheReader.open(request_of()["out"]).spec.encoder.name == "open_clip:mine"


def test_overwriting_one_split_does_not_delete_the_others(request_of: Request, tree: Tree) -> None:
    extract(**request_of())
    before = tree(request_of()["out"])
    with pytest.raises(
        CacheError, match=r"other splits would be deleted[\s\S]*got: +splits train in the cache"
    ):
        extract(**request_of(split="test"), overwrite=True)
    assert tree(request_of()["out"]) == before
