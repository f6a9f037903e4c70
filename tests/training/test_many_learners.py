"""Many learners on one stream of batches end as each does alone."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from featcache.cache.reader import CacheReader
from featcache.training.data import TrainingData
from featcache.training.learners import create_learner
from featcache.training.loop import fit, make_loader
from featcache.training.recipe import Recipe, parse_options

CPU = torch.device("cpu")


@pytest.fixture
def draw(cache):
    options = parse_options("supervised", {})
    return TrainingData.open(CacheReader.open(cache), options.data, CPU).draw(
        options.data, seed=0, labels_per_class=3
    )


def recipes():
    """Learners that differ in seed, learning rate and length, with dropout from the global generator."""
    for number in range(4):
        tree = {
            "projector": {"heads": 2, "dropout": 0.1},
            "optim": {"steps": 5 + number, "batch_size": 4, "lr": 10.0 ** -(2 + number)},
        }
        yield Recipe("twinturbo", parse_options("twinturbo", tree), seed=number, device=CPU)


def weights(learner):
    return learner.state.model.state_dict()


def test_each_ends_as_it_would_alone(draw):
    alone = []
    for recipe in recipes():
        learner = create_learner(recipe, draw)
        loader = make_loader(learner, draw, recipe.options, order_seed=3)
        with closing(loader.steps(0, learner.steps)) as batches:
            fit([learner], batches, CPU)
        alone.append(learner)
    together = [create_learner(recipe, draw) for recipe in recipes()]
    first = next(recipes())
    loader = make_loader(together[0], draw, first.options, order_seed=3)
    with closing(loader.steps(0, max(learner.steps for learner in together))) as batches:
        fit(together, batches, CPU)
    for one, other in zip(alone, together, strict=True):
        assert one.steps_done == other.steps_done == one.steps
        assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    assert not torch.equal(*(weights(learner)["objective.head.weight"] for learner in together[:2]))


def test_a_learner_without_steps_is_refused_by_the_loop(draw):
    recipe = replace(next(recipes()), objective="linear", options=parse_options("linear", {}))
    with pytest.raises(TypeError, match="FittedProbe"):
        fit([create_learner(recipe, draw)], [], CPU)
