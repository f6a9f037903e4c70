"""Trainings that meet a full disk, or another training into the same folder: in processes of their own."""

import errno
import os
import resource
import signal
import tempfile
import time
from contextlib import closing

import pytest

from featcache.errors import FeatcacheError, FileError, TrainError
from featcache.runs.metrics import MetricLog
from featcache.runs.run import RunFolder
from featcache.runs.verify import verify_run
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {
    "projector": {"heads": 2},
    "optim": {"steps": 40, "batch_size": 6},
    "log": {"every": 1, "checkpoint_every": 10},
    "cv": "off",
}


@pytest.fixture(scope="module")
def cache(make_cache, tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("faults") / "cache.zarr")


def train(cache, out, checkpoint_every=10, **more):
    options = OPTIONS | {"log": {"every": 1, "checkpoint_every": checkpoint_every}}
    request = TrainRequest(cache, "supervised", labels_per_class=3, options=options)
    return run_training(request, out, device="cpu", **more)


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The run that meets no fault; not to be changed."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    train(cache, out)
    return out


def command(cache, out, *more):
    """The arguments of the same training on the command line."""
    options = {
        f"{table}.{name}": value
        for table in ("projector", "optim", "log")
        for name, value in OPTIONS[table].items()
    }
    pairs = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    asked = ("--objective", "supervised", "--labels-per-class", 3, "--device", "cpu", "--set", "cv=off")
    return ("train", cache, *asked, *pairs, "--out", out, *more)


def assert_same(run, whole):
    assert RunFolder(run).result()["test"] == RunFolder(whole).result()["test"]
    for name in ("metrics.jsonl", "checkpoint.safetensors", "labels.json", "task.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name.partition(".tfevents")[0] for path in run.iterdir()} == {
        path.name.partition(".tfevents")[0] for path in whole.iterdir()
    }
    assert verify_run(run).whole


def test_a_full_disk_is_a_sentence_and_the_training_goes_on(cache, whole, tmp_path, file_limit):
    """No file may grow beyond a size, which each kind of file reaches first at one of the limits."""
    train(cache, tmp_path / "late", 100)
    metrics = (whole / "metrics.jsonl").stat().st_size
    assert metrics // 2 > (whole / "config.json").stat().st_size
    met = set()
    for limit, every in ((0, 10), (40, 10), (500, 10), (metrics // 2, 100), (metrics, 100)):
        run = tmp_path / f"{limit}"
        with file_limit(limit), pytest.raises(FeatcacheError, match="is full while writing") as raised:
            train(cache, run, every)
        met.add(raised.value.what.rpartition("/")[2])
        assert "resume=True" in str(raised.value) or ".lock" in raised.value.what
        train(cache, run, every, resume=True)
        assert_same(run, tmp_path / "late")
    assert met == {".lock", "config.json", "metrics.jsonl", "checkpoint.safetensors"}


def test_events_that_meet_a_full_disk(tmp_path, file_limit):
    def log_on():
        with closing(MetricLog(RunFolder(tmp_path), 0)) as log:
            for step in range(99):
                log(step, {"loss": 1.0})

    with file_limit(400), pytest.raises(FileError, match=r"full while writing .*tfevents") as raised:
        log_on()
    assert "resume" in str(raised.value)


def test_a_full_disk_on_the_command_line_leaves_no_traceback(cache, whole, tmp_path, spawn):
    limit = (whole / "metrics.jsonl").stat().st_size // 2

    def confine():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = spawn(*command(cache, tmp_path / "run"), preexec_fn=confine)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert errors.startswith("error: ")
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert "Exception" not in errors
    train(cache, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", whole)


def test_not_even_a_temporary_folder(cache, tmp_path, monkeypatch):
    """A disk that is full to the last byte has no room for torch's own files either."""

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(FileError, match="TMPDIR"):
        train(cache, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_second_training_into_a_folder_is_told_about_the_first(cache, whole, tmp_path, spawn):
    run, seen = tmp_path / "run", []

    def watch(step, terms):
        if step == 12:
            for resume in (False, True):
                with pytest.raises(TrainError) as raised:
                    train(cache, run, resume=resume)
                seen.append(raised.value)
            process = spawn(*command(cache, run, "--resume"))
            seen.append(process.communicate(timeout=60)[1])

    train(cache, run, watch=watch)
    assert len(seen) == 3
    for error in seen:
        assert f"process {os.getpid()} on {os.uname().nodename}, since 20" in str(error)
    assert_same(run, whole)


def test_trainings_that_start_at_the_same_time(cache, whole, tmp_path, spawn):
    run = tmp_path / "run"
    processes = [spawn(*command(cache, run, "--resume")) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert 0 in {code for _, code in ends}
    assert all(code == 0 or "another process is training into" in errors for errors, code in ends)
    assert_same(run, whole)


def test_the_lock_of_a_killed_training_is_free(cache, whole, tmp_path, spawn):
    run = tmp_path / "run"
    process = spawn(*command(cache, run))
    while not (run / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (run / ".lock").exists() != (run / "result.json").exists()
    train(cache, run, resume=True)
    assert_same(run, whole)


def test_a_folder_with_only_a_left_lock_is_empty(cache, whole, tmp_path):
    (tmp_path / ".lock").touch()
    train(cache, tmp_path)
    assert_same(tmp_path, whole)


def test_a_run_can_be_in_the_current_folder(cache, whole, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(cache, ".")
    assert_same(tmp_path / "here", whole)
