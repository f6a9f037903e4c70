"""The state of a training: saved and restored exactly, scheduled and clipped."""

import os
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from featcache.batch import Features
from featcache.errors import FileError, TrainError
from featcache.nn.projector import Projector, ProjectorOptions
from featcache.objectives.base import Task
from featcache.objectives.twinturbo import TwinTurbo, TwinTurboOptions
from featcache.training.options import OptimOptions
from featcache.training.state import TrainState, read_step, schedule

DIM = 8


def make(seed=0, dropout=0.0, **options):
    generator = torch.Generator().manual_seed(seed)
    projector = Projector(ProjectorOptions(heads=2, dropout=dropout), DIM, DIM, generator)
    centres = torch.randn(4, DIM, generator=generator)
    task = Task(
        num_classes=3,
        dim=DIM,
        pooled_dim=DIM,
        num_unlabelled=10,
        label_counts=torch.ones(3),
        center=centres[3],
        class_init=centres[:3],
        seed=seed,
    )
    objective = TwinTurbo(TwinTurboOptions(w_critic=1.0, critic_hidden=4), task)
    return TrainState(projector, objective, OptimOptions(steps=10, **options))


def advance(state, steps=3):
    """Some steps down a loss in which every parameter takes part."""
    for _ in range(steps):
        state.set_learning_rate()
        sum((p - 0.1).square().sum() for p in state.model.parameters()).backward()
        state.clip_gradients()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.model["objective"].log_marginal += 0.25
        state.move_average()


def tensors(state):
    average = state.average.state_dict() if state.average else {}
    moments = state.optimizer.state_dict()["state"]
    return {
        **state.model.state_dict(),
        **{f"average.{name}": value for name, value in average.items()},
        **{f"{index}.{name}": value for index, entry in moments.items() for name, value in entry.items()},
    }


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_round_trip_is_exact(tmp_path, ema):
    state, other = make(ema=ema), make(seed=1, ema=ema)
    advance(state)
    state.save(tmp_path / "c.safetensors")
    other.load(tmp_path / "c.safetensors")
    assert other.step == state.step == read_step(tmp_path / "c.safetensors") == 3
    before, after = tensors(state), tensors(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    advance(state)
    advance(other)
    assert all(torch.equal(value, tensors(other)[name]) for name, value in tensors(state).items())


def test_saving_leaves_one_file(tmp_path):
    state = make()
    for _ in range(2):
        state.save(tmp_path / "c.safetensors")
        advance(state, 1)
    assert os.listdir(tmp_path) == ["c.safetensors"]
    assert read_step(tmp_path / "c.safetensors") == 1


def test_saving_where_there_is_no_folder(tmp_path):
    with pytest.raises(FileError, match=r"cannot write[\s\S]*No such file"):
        make().save(tmp_path / "gone" / "c.safetensors")


def saved(path):
    state = make(ema=0.5)
    advance(state)
    state.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_checkpoint(tmp_path, keep):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(saved(path)[:keep])
    with pytest.raises(TrainError, match=r"checkpoint\.safetensors [\s\S]*`out`"):
        make(ema=0.5).load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("model.objective.prior"),
        lambda tensors: tensors.update({"model.objective.prior": torch.zeros(9)}),
        lambda tensors: tensors.update({"model.more": torch.zeros(9)}),
        lambda tensors: tensors.pop("average.objective.batches"),
    ],
)
def test_a_checkpoint_of_something_else(tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    saved(path)
    content = load_file(path)
    damage(content)
    save_file(content, path, {"featcache": '{"step": 3}'})
    with pytest.raises(TrainError, match="expected: a checkpoint of this configuration"):
        make(ema=0.5).load(path)


@pytest.mark.parametrize("metadata", [None, {}, {"featcache": "{}"}, {"featcache": "?"}, {"featcache": "[]"}])
def test_a_checkpoint_without_its_step(tmp_path, metadata):
    path = tmp_path / "checkpoint.safetensors"
    saved(path)
    save_file(load_file(path), path, metadata)
    state = make(ema=0.5)
    with pytest.raises(TrainError, match="cannot be used"):
        state.load(path)
    assert state.step == 0


def test_schedule_rises_and_falls():
    factors = [schedule(step, 100, 0.2) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[20:]))
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0.0), (1, 0.9), (3, 0.1), (7, 0.5), (10, 0.0), (1000, 0.99)]
)
def test_schedule_stays_in_bounds(steps, warmup):
    factors = [schedule(step, steps, warmup) for step in range(steps)]
    assert 0 < min(factors) <= max(factors) <= 1


def test_rates_by_role_and_decay_of_matrices():
    state = make(lr=0.01, head_lr=0.05, critic_lr=0.2, weight_decay=0.3, warmup=0.5)
    objective = state.model["objective"]
    rates = {id(p): 0.01 for p in state.model["projector"].parameters()}
    rates |= {id(p): 0.05 for p in objective.parameters()}
    rates |= {id(p): 0.2 for p in objective.critic_parameters()}
    assert set(rates.values()) == {0.01, 0.05, 0.2}
    state.step = 2
    state.set_learning_rate()
    seen = 0
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            seen += 1
            assert group["lr"] == pytest.approx(rates[id(parameter)] * 3 / 5)
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    assert seen == len(list(state.model.parameters()))


def test_critics_are_clipped_apart():
    state = make(clip=2.0)
    critics = state.model["objective"].critic_parameters()
    mine = {id(p) for p in critics}
    others = [p for p in state.model.parameters() if id(p) not in mine]
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3 if id(parameter) in mine else 1e-4)
    whole = torch.cat([p.grad.flatten() for p in state.model.parameters()]).norm()
    assert state.clip_gradients() == pytest.approx(float(whole), rel=1e-5)
    assert torch.cat([p.grad.flatten() for p in critics]).norm() == pytest.approx(2.0, rel=1e-4)
    assert all(bool((p.grad == 1e-4).all()) for p in others)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_predictions_are_made_without_dropout(ema):
    state = make(dropout=0.5, ema=ema)
    state.model.train()
    advance(state)
    projector, objective = state.evaluated()
    assert not projector.training
    assert not objective.training
    features = Features(torch.randn(4, 5, DIM), None, torch.randn(4, DIM))
    assert torch.equal(projector(features), projector(features))


def test_the_average_is_what_is_evaluated():
    state, plain = make(ema=0.75), make()
    start = [p.clone() for p in plain.model.parameters()]
    advance(state, 1)
    advance(plain, 1)
    first = [p.clone() for p in plain.model.parameters()]
    advance(state, 1)
    advance(plain, 1)
    projector, objective = state.evaluated()
    averaged = [*projector.parameters(), *objective.parameters()]
    second = list(plain.model.parameters())
    assert not torch.equal(start[0], first[0])
    for one, two, mean in zip(first, second, averaged, strict=True):
        assert torch.allclose(mean, 0.75 * one + 0.25 * two, atol=1e-6)
    assert torch.equal(objective.log_marginal, state.model["objective"].log_marginal)
