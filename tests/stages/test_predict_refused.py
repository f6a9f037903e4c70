"""`predict` refuses an unfit run, cache or path before anything is written."""

import shutil

import pytest

from featcache.errors import CacheError, CacheMismatch, ConfigError, FileError, TrainError
from featcache.stages.extract import extract
from featcache.stages.predict import predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("change", "field", "got", "expected"),
    [
        (
            {"model": "other"},
            r"another `encoder\.name` \(and encoder\.weights, ",
            ":other in the",
            ":tiny in the cache of",
        ),
        ({"tokens": "grid:2x2"}, "another `tokens`", "grid:2x2 in the cache", "all in the cache of the run"),
        ({"layers": (-2,)}, "another `layer`", "-2 in the cache", "-1 in the cache of the run"),
    ],
)
def test_other_features_are_refused_by_name(photos, frozen, learned, tmp_path, change, field, got, expected):
    request = {"source": photos, "model": frozen("tiny"), "out": tmp_path / "a.zarr", "num_workers": 0}
    extract(**request)
    run = learned(tmp_path / "a.zarr", tmp_path / "run")
    model = frozen(change.get("model", "tiny"))
    extract(**request | change | {"model": model, "out": tmp_path / "b.zarr"})
    with pytest.raises(CacheMismatch, match=field) as caught:
        predict(run, tmp_path / "b.zarr", tmp_path / "p.csv")
    assert got in caught.value.got
    assert expected in caught.value.expected
    flags = "--model python:frozen_modules.py:tiny --tokens all --layer -1"
    assert flags in caught.value.text(command_line=True)
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("change", [{"tokens": "grid:2x2"}, {"tokens": "pooled"}, {"layers": (-2,)}])
def test_a_probe_reads_no_tokens_so_any_will_do(photos, frozen, learned, tmp_path, change):
    request = {"source": photos, "model": frozen("tiny"), "out": tmp_path / "a.zarr", "num_workers": 0}
    extract(**request)
    run = learned(tmp_path / "a.zarr", tmp_path / "run", "knn")
    extract(**request | change | {"out": tmp_path / "b.zarr"})
    for cache in ("a", "b"):
        predict(run, tmp_path / f"{cache}.zarr", tmp_path / f"{cache}.csv")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    extract(**request | {"model": frozen("other"), "out": tmp_path / "c.zarr"})
    with pytest.raises(CacheMismatch, match="another `encoder"):
        predict(run, tmp_path / "c.zarr", tmp_path / "c.csv")


def unfinished(run, learn):
    (run / "result.json").unlink()
    return rf"the run {run} is not finished[\s\S]*resume"


def of_something_else(run, learn):
    shutil.rmtree(run)
    run.mkdir()
    (run / "config.json").write_text('{"model_type": "bert"}')
    return rf"no run at {run}\n +got: +something else\n +next: +make one"


def without_its_task(run, learn):
    (run / "task.safetensors").unlink()
    return r"task\.safetensors is damaged\n +got: [\s\S]*another `out`"


def with_a_damaged_task(run, learn):
    (run / "task.safetensors").write_bytes((run / "task.safetensors").read_bytes()[:-9])
    return r"task\.safetensors is damaged\n +got: [\s\S]*another `out`"


def with_another_s_task(run, learn):
    shutil.copy(learn(objective="knn") / "task.safetensors", run)
    return r"task\.safetensors is damaged"


def without_its_checkpoint(run, learn):
    (run / "checkpoint.safetensors").unlink()
    return r"checkpoint\.safetensors is damaged"


def with_another_s_checkpoint(run, learn):
    shutil.copy(learn(projector={"depth": 2}) / "checkpoint.safetensors", run)
    return r"checkpoint\.safetensors is damaged"


def with_a_damaged_config(run, learn):
    (run / "config.json").write_text('{"objec')
    return r"config\.json is damaged"


@pytest.mark.parametrize(
    "damage",
    [
        unfinished,
        of_something_else,
        with_a_damaged_config,
        without_its_task,
        with_a_damaged_task,
        with_another_s_task,
        without_its_checkpoint,
        with_another_s_checkpoint,
    ],
)
def test_a_run_that_cannot_predict(run, cache, learned, tmp_path, damage):
    shutil.copytree(run, tmp_path / "run")
    message = damage(tmp_path / "run", lambda **options: learned(cache, tmp_path / "other", **options))
    with pytest.raises(TrainError, match=message):
        predict(tmp_path / "run", cache, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name", ["missing", "folder", "file"])
def test_no_run_and_no_cache_at_all(run, cache, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(TrainError, match=rf"no run at .*{name}\n +got: [\s\S]*featcache train"):
        predict(tmp_path / name, cache, tmp_path / "p.csv")
    with pytest.raises(CacheError, match=rf"no featcache cache at .*{name}"):
        predict(run, tmp_path / name, tmp_path / "p.csv")
    with pytest.raises(ConfigError, match="no such device"):
        predict(run, cache, tmp_path / "p.csv", device="gpu")


def test_a_cache_that_is_not_whole(run, make_cache, tmp_path):
    whole = make_cache(tmp_path / "c.zarr", weak=2, strong=2)
    with pytest.raises(CacheError, match=r"no split `tset`[\s\S]*did you mean `test`"):
        predict(run, whole, tmp_path / "p.csv", split="tset")
    with pytest.raises(CacheError, match=r"is not complete[\s\S]*rerun the same"):
        predict(run, make_cache(tmp_path / "d.zarr", unwritten=1), tmp_path / "p.csv")
    for name in ("train", "test"):
        shutil.rmtree(whole / name)
    with pytest.raises(CacheError, match="has no split yet"):
        predict(run, whole, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_only_an_earlier_table_is_replaced(run, cache, tmp_path, tree):
    out = tmp_path / "p.csv"
    predict(run, cache, out)
    first = out.read_bytes()
    for earlier in (first[:200], b""):
        out.write_bytes(earlier)
        predict(run, cache, out)
        assert out.read_bytes() == first
    for content, got in ((b"file,label\n1.png,cat\n", "'file,label'"), (b"\xff\xfe\x00", "a file that")):
        out.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"not a table of predictions[\s\S]*{got}"):
            predict(run, cache, out)
        assert out.read_bytes() == content
    before = tree(run)
    with pytest.raises(ConfigError, match=r"got: +a folder\n[\s\S]*next: +choose another"):
        predict(run, cache, run)
    with pytest.raises(FileError, match="cannot write"):
        predict(run, cache, run / "config.json" / "p.csv")
    assert tree(run) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv"]
