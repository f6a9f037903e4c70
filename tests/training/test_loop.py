"""Whole trainings: repeated, resumed and broken off, with the same end."""

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from featcache.errors import TrainError
from featcache.training.state import read_step

KILLED = Path(__file__).with_name("killed.py")


def figures(run):
    """Return everything that must be equal: test result, metrics and tensors of the last checkpoint."""
    result = json.loads((run / "result.json").read_text())
    return result["test"], (run / "metrics.jsonl").read_text(), load_file(run / "checkpoint.safetensors")


def assert_equal(a, b):
    (test, metrics, tensors), (other_test, other_metrics, other_tensors) = figures(a), figures(b)
    assert test == other_test
    assert metrics == other_metrics
    assert tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []


def steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["supervised", "twinturbo"])
def test_one_seed_one_result(run, objective):
    first, second = run("first", objective=objective), run("second", objective=objective)
    assert_equal(first, second)
    assert steps(first) == [5, 10, 15, 20, 25, 30]
    other = run("other", objective=objective, seed=1)
    assert figures(other)[1] != figures(first)[1]


def test_the_global_generator_is_left_alone(run):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run("run")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns(run):
    text = (run("run", objective="supervised", steps=100, lr=5e-3) / "metrics.jsonl").read_text()
    losses = [json.loads(line)["loss"] for line in text.splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def killed_at(moments, run, spawn, cache, tmp_path, **options):
    """The run that was not interrupted; beside it lie killed-0, killed-1, ..., one for each moment."""
    whole = run("whole", **options)
    request = json.loads((whole / "config.json").read_text())
    fields = {"cache": str(cache), "objective": "twinturbo", "labels_per_class": 3}
    (tmp_path / "request.json").write_text(json.dumps(fields | {"options": request["options"]}))
    process = spawn(tmp_path / "request.json", tmp_path / "killed", *moments, program=KILLED)
    out, errors = process.communicate(timeout=100)
    assert out.split() == ["-9"] * len(moments), errors
    return whole


MOMENTS = ("step:15", "rename:2", "step:30")


def test_killed_and_resumed_equals_uninterrupted(run, spawn, cache, tmp_path):
    whole = killed_at(MOMENTS, run, spawn, cache, tmp_path, ema=0.9)
    assert_equal(tmp_path / "killed", whole)
    done = [(15, 10), (20, 10), (30, 20)]
    for number, (logged, saved) in enumerate(done):
        name = f"killed-{number}"
        killed = tmp_path / name
        assert not (killed / "result.json").exists()
        assert steps(killed)[-1] == logged
        assert read_step(killed / "checkpoint.safetensors") == saved
        run(name, resume=True, ema=0.9)
        assert_equal(killed, whole)
        assert sorted(path.name for path in killed.iterdir() if path.suffix == ".partial") == []


IN_FOLDS = ("rename:5", "rename:7", "rename:9")
"""Three checkpoints belong to the training, three to each of two folds."""


@pytest.mark.slow
def test_killed_inside_a_fold_and_resumed(run, spawn, cache, tmp_path):
    whole = killed_at(IN_FOLDS, run, spawn, cache, tmp_path, cv=2)
    expected = json.loads((whole / "result.json").read_text())
    assert expected["held_out"]
    for number, folds in enumerate([{"fold=0"}, {"fold=0", "fold=1"}, {"fold=0", "fold=1"}]):
        killed = tmp_path / f"killed-{number}"
        assert {folder.name for folder in killed.glob("fold=*")} == folds
        run(killed.name, resume=True, cv=2)
        assert_equal(killed, whole)
        result = json.loads((killed / "result.json").read_text())
        assert [result[key] for key in ("held_out", "temperature", "scores")] == [
            expected[key] for key in ("held_out", "temperature", "scores")
        ]
        assert not list(killed.glob("fold=*"))


def test_a_kill_in_the_middle_of_a_line(run):
    """The line is cut where the checkpoint was not reached: it is dropped and written again."""
    whole, cut = run("whole"), run("cut")
    lines = (cut / "metrics.jsonl").read_text()
    (cut / "result.json").unlink()
    (cut / "checkpoint.safetensors").unlink()
    (cut / "metrics.jsonl").write_text(lines[: len(lines) // 3])
    run("cut", resume=True)
    assert_equal(cut, whole)


def test_killed_between_the_last_checkpoint_and_the_result(run):
    whole, cut = run("whole"), run("cut")
    (cut / "result.json").unlink()
    run("cut", resume=True)
    assert_equal(cut, whole)


def test_a_damaged_checkpoint_is_said_and_left(run):
    cut = run("cut")
    (cut / "result.json").unlink()
    half = (cut / "checkpoint.safetensors").read_bytes()[:5000]
    (cut / "checkpoint.safetensors").write_bytes(half)
    metrics = (cut / "metrics.jsonl").read_text()
    with pytest.raises(TrainError, match=r"checkpoint\.safetensors is damaged"):
        run("cut", resume=True)
    assert (cut / "checkpoint.safetensors").read_bytes() == half
    assert (cut / "metrics.jsonl").read_text() == metrics
    assert not (cut / "result.json").exists()


@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_loss_that_is_not_finite_names_its_step(run, tmp_path, every):
    log = {"every": every, "checkpoint_every": 1000}
    with pytest.raises(TrainError, match=r"at step 2\n[\s\S]*=(nan|inf)[\s\S]*optim\.lr"):
        run("run", objective="supervised", lr=1e25, warmup=0.0, log=log)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "run" / "result.json").exists()
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_nothing_broken_is_saved(run, tmp_path):
    log = {"every": 1000, "checkpoint_every": 1}
    with pytest.raises(TrainError, match="at step 2\n"):
        run("run", objective="supervised", lr=1e25, warmup=0.0, log=log)
    assert not [thread for thread in threading.enumerate() if thread.name == "featcache-prefetch"]
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    assert read_step(checkpoint) == 1
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint).values())


def test_the_moving_average_is_what_is_tested(run):
    plain, averaged = run("plain"), run("averaged", ema=0.9)
    (test, metrics, tensors), (other_test, other_metrics, other_tensors) = figures(plain), figures(averaged)
    assert metrics == other_metrics
    assert test["nll"] != other_test["nll"]
    assert tensors.keys() < other_tensors.keys()
    assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)


def test_bfloat16(run):
    plain, half = figures(run("plain")), figures(run("half", amp="bfloat16"))
    assert plain[1] != half[1]
    assert plain[0]["nll"] == pytest.approx(half[0]["nll"], abs=0.05)
    assert {tensor.dtype for tensor in half[2].values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled(run):
    plain, compiled = (
        figures(run(name, objective="supervised", compile=name == "compiled"))
        for name in ("plain", "compiled")
    )
    assert plain[0]["nll"] == pytest.approx(compiled[0]["nll"], rel=1e-4)
    assert plain[2].keys() == compiled[2].keys()
