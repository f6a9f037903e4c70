"""A run folder: its content, its TensorBoard events, and its protection against overwriting."""

import json
from contextlib import closing

import numpy as np
import pytest
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from featcache.errors import FeatcacheError, FileError, TrainError
from featcache.runs.metrics import MetricLog
from featcache.runs.run import RunFolder
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {
    "projector": {"heads": 2},
    "optim": {"steps": 6, "batch_size": 6, "lr": 0.001},
    "log": {"every": 2, "checkpoint_every": 4},
}


@pytest.fixture(scope="module")
def cache(make_cache, tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("runs") / "cache.zarr")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A finished run; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    start(cache, out)
    return out


def start(cache, out, *, objective="supervised", seed=0, labels_per_class=2, resume=False, **optim):
    options = OPTIONS | {"optim": OPTIONS["optim"] | optim}
    request = TrainRequest(cache, objective, seed, labels_per_class=labels_per_class, options=options)
    return run_training(request, out, device="cpu", resume=resume)


def scalars(run):
    """(tag, step, value) of every event that TensorBoard would show."""
    found = []
    for file in run.glob("events.out.tfevents.*"):
        data = file.read_bytes()
        while data:
            header, size = data[:8], int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(header)
            body, data = data[12 : 12 + size], data[16 + size :]
            event = Event.FromString(body)
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return sorted(found)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_file_is_there(finished):
    names = {path.name for path in finished.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        "config.json",
        "environment.json",
        "labels.json",
        "task.safetensors",
        "reference.safetensors",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "result.json",
    }
    assert all(name in RunFolder.__doc__ for name in names - events)


def test_their_content(finished, cache):
    config = json.loads((finished / "config.json").read_text())
    assert (config["objective"], config["seed"], config["labels_per_class"]) == ("supervised", 0, 2)
    assert config["options"]["optim"]["steps"] == 6
    assert config["options"]["objective"] == {"label_smoothing": 0.0}
    assert config["splits"]["train"] == {"content": "digest of train", "rows": 30}
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["packages"]["numpy"] == np.__version__
    assert {"python", "platform", "cpus", "command"} < environment.keys()
    result = json.loads((finished / "result.json").read_text())
    assert result.items() >= RunFolder(finished).result().items()
    assert result["files"].keys() == {path.name for path in finished.iterdir()} - {"result.json"}
    assert [line["step"] for line in lines(finished)] == [2, 4, 6]
    assert lines(finished)[0].keys() == {"step", "loss", "ce_cond", "grad_norm"}
    assert "model.objective.head.weight" in load_file(finished / "checkpoint.safetensors")


def test_events_are_the_metrics_and_figures(finished):
    found, result = scalars(finished), RunFolder(finished).result()
    figures = {tag: value for tag, step, value in found if step == 6 and not tag.startswith("train/")}
    assert figures["test/accuracy"] == np.float32(result["test"]["accuracy"])
    assert figures["temperature"] == np.float32(result["temperature"])
    events = [tag for tag, _, _ in found if tag.startswith("_hparams_/")]
    assert len(events) == 3
    found = [each for each in found if each[0].startswith("train/")]
    expected = [
        (f"train/{name}", line["step"], np.float32(value))
        for line in lines(finished)
        for name, value in line.items()
        if name != "step"
    ]
    assert found == sorted(expected)
    assert len(expected) == 9


def test_a_probe_has_events_of_its_figures(cache, tmp_path):
    start(cache, tmp_path / "probe", objective="knn")
    (left,) = (tmp_path / "probe").glob("events.out.tfevents.*")
    first = scalars(tmp_path / "probe")
    assert any(tag == "test/accuracy" for tag, _, _ in first)
    (tmp_path / "probe" / "result.json").unlink()  # killed before the end, with half a record
    left.write_bytes(left.read_bytes()[:-3])
    start(cache, tmp_path / "probe", objective="knn", resume=True)
    assert scalars(tmp_path / "probe") == first


def test_a_resumed_log_has_every_step_once(tmp_path):
    run = RunFolder(tmp_path)
    with closing(MetricLog(run, 0)) as log:
        for step in range(5):
            log(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as cut_short:
        cut_short.write('{"step": 5, "lo')
    with closing(MetricLog(run, 2)) as log:
        log(3, {"loss": 30.0})
    assert [tuple(line.values()) for line in lines(tmp_path)] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    assert scalars(tmp_path) == [("train/loss", line["step"], line["loss"]) for line in lines(tmp_path)]


def test_labels_are_training_rows(finished, cache, tmp_path):
    record = json.loads((finished / "labels.json").read_text())
    assert record["ids"] == [f"train/{row:03}.png" for row in record["rows"]]
    assert sorted(row % 3 for row in record["rows"]) == [0, 0, 1, 1, 2, 2]
    start(cache, tmp_path / "knn", objective="knn")
    assert json.loads((tmp_path / "knn" / "labels.json").read_text()) == record
    start(cache, tmp_path / "seed", objective="knn", seed=1)
    assert json.loads((tmp_path / "seed" / "labels.json").read_text()) != record


def test_failed_rows_are_never_labelled(make_cache, tmp_path):
    lost = [row for row in range(30) if row not in (4, 11, 15, 21, 22, 29)]
    cache = make_cache(tmp_path / "c.zarr", failed={"train": lost, "test": [0, 1]})
    result = start(cache, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "labels.json").read_text())["rows"] == [4, 11, 15, 21, 22, 29]
    assert result["test"]["samples"] == 16
    with pytest.raises(TrainError, match=r"labels_per_class=3\b.*\b2\n"):
        start(cache, tmp_path / "more", labels_per_class=3)


CHANGES = [
    ({"seed": 1}, "`seed` differs", "1", "0"),
    ({"objective": "knn"}, "`objective` differs", '"knn"', '"supervised"'),
    ({"labels_per_class": 3}, "`labels_per_class` differs", "3", "2"),
    ({"lr": 0.5}, "`options.optim.lr` differs", "0.5", "0.001"),
    ({"steps": 7}, "`options.optim.steps` differs", "7", "6"),
]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("change", "what", "got", "expected"), CHANGES)
def test_another_configuration_is_refused(finished, cache, tree, resume, change, what, got, expected):
    before = tree(finished)
    with pytest.raises(TrainError, match="holds another run") as raised:
        start(cache, finished, resume=resume, **change)
    assert what in str(raised.value)
    assert f"got:      {got}\n  expected: {expected}\n  next:     choose another `out`" in str(raised.value)
    assert tree(finished) == before


def test_another_cache_is_refused(finished, make_cache, tmp_path):
    other = make_cache(tmp_path / "other.zarr", dtype="float16")
    with pytest.raises(TrainError, match="`cache` differs"):
        start(other, finished, resume=True)


def test_a_finished_run_is_not_trained_again(finished, cache, tree):
    before, times = tree(finished), [path.stat().st_mtime_ns for path in finished.iterdir()]
    assert start(cache, finished, resume=True) == RunFolder(finished).result()
    assert tree(finished) == before
    assert [path.stat().st_mtime_ns for path in finished.iterdir()] == times


def test_a_run_of_the_same_configuration_needs_resume(finished, cache):
    with pytest.raises(TrainError, match=r"holds a finished run[\s\S]*resume"):
        start(cache, finished)


def test_an_unfinished_run_needs_resume(finished, cache, tmp_path):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(TrainError, match=r"holds an unfinished run[\s\S]*resume"):
        start(cache, tmp_path)
    assert start(cache, tmp_path, resume=True)["test"] == RunFolder(finished).result()["test"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "result.json", "config.json.d/x", "checkpoint.safetensors"])
def test_a_foreign_folder_is_left_alone(cache, tmp_path, tree, name, resume):
    (tmp_path / "own" / name).parent.mkdir(parents=True)
    (tmp_path / "own" / name).write_text("{}")
    with pytest.raises(
        TrainError, match=r"not a run; it is left as it is[\s\S]*a folder[\s\S]*another `out`"
    ):
        start(cache, tmp_path / "own", resume=resume)
    assert tree(tmp_path / "own") == {name: b"{}"}


@pytest.mark.parametrize("content", ["{}", '{"model_type": "bert"}', "not JSON", "[1]", "\xff"])
def test_somebody_else_s_config_is_left_alone(cache, tmp_path, tree, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    before = tree(tmp_path)
    with pytest.raises(TrainError, match="`out`"):
        start(cache, tmp_path, resume=True)
    assert tree(tmp_path) == before


def test_a_file_in_the_way(cache, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(TrainError, match=r"got: +a file"):
        start(cache, tmp_path / "run")
    with pytest.raises(FileError, match="cannot write"):
        start(cache, tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_empty_folder_and_the_first_instant_of_a_run(finished, cache, tmp_path):
    (tmp_path / "config.json.partial").write_text('{"obj')
    assert start(cache, tmp_path)["test"] == RunFolder(finished).result()["test"]
    assert not (tmp_path / "config.json.partial").exists()


def test_what_cannot_be_trained_leaves_no_run(cache, tmp_path):
    def refused(name, **options):
        request = TrainRequest(cache, name, labels_per_class=2, options=options)
        with pytest.raises(FeatcacheError):
            run_training(request, tmp_path / "run", device="cpu")
        return not (tmp_path / "run").exists()

    assert refused("supervised", projector={"heads": 3})
    assert refused("supervised", data={"layer": -9})
    assert refused("twinturbo", objective={"prior": [1.0]})
    assert refused("zero_shot")


def test_a_damaged_result(finished, cache, tmp_path):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    (tmp_path / "result.json").write_text('{"test"')
    with pytest.raises(TrainError, match=r"result\.json is damaged[\s\S]*another `out`"):
        start(cache, tmp_path, resume=True)
