"""`info` describes a cache as text and as JSON."""

import json

import pytest

from featcache.errors import CacheError
from featcache.stages.info import describe, info


def test_a_whole_cache(make_cache, tmp_path):
    path = make_cache(tmp_path / "c.zarr", weak=1, text=True, layers=(-1, -2), failed={"train": [0, 3]})
    content = info(path)
    whole = {"unlabelled": 0, "shards": 4, "missing_shards": 0}
    assert json.loads(json.dumps(content))["splits"] == {
        "test": whole | {"rows": 18, "labelled": 18, "failed": 0, "classes": {"cat": 6, "dog": 6, "owl": 6}},
        "train": whole
        | {"rows": 30, "labelled": 30, "failed": 2, "classes": {"cat": 10, "dog": 10, "owl": 10}},
    }
    assert content["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert (content["views"], content["classes"]) == (["eval", "weak0"], ["cat", "dog", "owl"])
    _, model, versions, *lines = describe(content).splitlines()
    assert model == "model:   made-up (weights 000000000000)"
    assert "numpy" in versions
    assert lines == [
        "views:   eval, weak0",
        "tokens:  layer -1: 5 x 8 float32, 0 prefix",
        "tokens:  layer -2: 5 x 8 float32, 0 prefix",
        "pooled:  8",
        "classes: 3, with text embeddings",
        "test: 18 rows, 18 labelled, 0 failed, complete",
        "  cat 6, dog 6, owl 6",
        "train: 30 rows, 30 labelled, 2 failed, complete",
        "  cat 10, dog 10, owl 10",
    ]


def test_an_unfinished_cache_with_unlabelled_rows(make_cache, tmp_path):
    path = make_cache(tmp_path / "c.zarr", splits={"train": [0, 1, -1, 2] * 9}, unwritten=2)
    *_, split, classes, advice = describe(info(path)).splitlines()
    assert split == "train: 36 rows, 27 labelled, 0 failed, 2 of 3 shards missing"
    assert classes == "  cat 9, dog 9, owl 9, and 9 unlabelled"
    assert "not complete" in advice


def test_no_cache(tmp_path, featcache):
    with pytest.raises(CacheError, match=r"no featcache cache at .*c\.zarr"):
        info(tmp_path / "c.zarr")
    assert featcache("info", tmp_path / "c.zarr", code=1).output.startswith("error: no featcache cache")


def test_the_command(make_cache, tmp_path, featcache):
    path = make_cache(tmp_path / "c.zarr")
    assert json.loads(featcache("info", path, "--json").output) == json.loads(json.dumps(info(path)))
    assert featcache("info", path).output == describe(info(path)) + "\n"
