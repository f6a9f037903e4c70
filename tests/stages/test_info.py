"""`info` describes a cache as text and as JSON."""

import json

import pytest

from featcache.errors import CacheError
from featcache.stages.info import describe, info


def test_a_whole_cache(make_cache, tmp_path):
    path = make_cache(tmp_path / "c.zarr", weak=1, text=True, layers=(-1, -2), failed={"train": [0, 3]})
    content = info(path)
    assert json.loads(json.dumps(content))["splits"] == {
        "test": {"rows": 18, "labelled": 18, "failed": 0, "shards": 4, "missing_shards": 0},
        "train": {"rows": 30, "labelled": 30, "failed": 2, "shards": 4, "missing_shards": 0},
    }
    assert content["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert (content["views"], content["classes"]) == (["eval", "weak0"], ["cat", "dog", "owl"])
    lines = describe(content).splitlines()
    assert lines[1:] == [
        "model:   made-up (weights 000000000000)",
        "views:   eval, weak0",
        "classes: 3, with text embeddings",
        "tokens:  layer -1: 5 x 8 float32, 0 prefix",
        "tokens:  layer -2: 5 x 8 float32, 0 prefix",
        "pooled:  8",
        "test: 18 rows, 18 labelled, 0 failed, complete",
        "train: 30 rows, 30 labelled, 2 failed, complete",
    ]


def test_an_unfinished_cache_with_unlabelled_rows(make_cache, tmp_path):
    path = make_cache(tmp_path / "c.zarr", splits={"train": [0, 1, -1, 2] * 9}, unwritten=2)
    assert (
        describe(info(path)).splitlines()[-1]
        == "train: 36 rows, 27 labelled, 0 failed, 2 of 3 shards missing"
    )


def test_no_cache(tmp_path, featcache):
    with pytest.raises(CacheError, match=r"no featcache cache at .*c\.zarr"):
        info(tmp_path / "c.zarr")
    assert featcache("info", tmp_path / "c.zarr", code=1).output.startswith("error: no featcache cache")


def test_the_command(make_cache, tmp_path, featcache):
    path = make_cache(tmp_path / "c.zarr")
    assert json.loads(featcache("info", path, "--json").output) == json.loads(json.dumps(info(path)))
    assert featcache("info", path).output == describe(info(path)) + "\n"
