"""Train one or more learners on one stream of batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

import torch

from featcache.batch import Batch
from featcache.loading.loader import Loader, Stream
from featcache.loading.plan import family_of
from featcache.loading.replay import ReplayCache
from featcache.training.data import Draw
from featcache.training.learner import Learner
from featcache.training.options import TrainOptions


def fit(learners: Sequence[Learner], batches: Iterable[Batch], device: torch.device) -> None:
    """Take one step of every unfinished learner on each batch.

    The state of torch's global generators is restored at the end.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for learner in learners:
            learner.begin()
        for batch in batches:
            for learner in learners:
                if learner.steps_done < learner.steps:
                    learner.advance(batch)


def train_learner(
    learner: Learner,
    draw: Draw,
    options: TrainOptions,
    *,
    order_seed: int,
    replay: ReplayCache | None,
) -> None:
    """Train one learner from its current step to its last one."""
    loader = make_loader(learner, draw, options, order_seed=order_seed, replay=replay)
    with closing(loader.steps(learner.steps_done, learner.steps)) as batches:
        fit([learner], batches, draw.data.device)
    learner.finish(draw.known)


def make_loader(
    learner: Learner, draw: Draw, options: TrainOptions, *, order_seed: int, replay: ReplayCache | None = None
) -> Loader:
    """Make the loader of a learner's batches, shuffled by `order_seed`.

    A batch holds `batch_size` labelled rows, and `uratio` times as many unlabelled rows. Rows of the replay
    cache are `replay_ratio` times the unlabelled ones. No part holds more rows than its split has.
    """
    store, optim = draw.data.train_store, options.optim
    views = learner.views(sorted({family_of(name) for name in store.view_names}))
    labelled = Stream.shuffled(
        store, draw.split.labelled, views.labelled, batch_size=optim.batch_size, seed=order_seed
    )
    unlabelled = replayed = None
    if views.unlabelled and len(draw.split.unlabelled):
        size = round(optim.uratio * optim.batch_size)
        unlabelled = Stream.shuffled(
            store, draw.split.unlabelled, views.unlabelled, batch_size=size, seed=order_seed + 1
        )
    if views.replay and replay is not None:
        size = round(options.data.replay_ratio * (unlabelled or labelled).plan.batch_size)
        held = {family_of(name) for name in replay.store.view_names}
        families = tuple(family if family in held else "eval" for family in views.replay)
        replayed = Stream.shuffled(replay.store, replay.rows, families, batch_size=size, seed=order_seed + 2)
    return Loader(
        labelled,
        draw.train_labels,
        unlabelled,
        replayed,
        device=draw.data.device,
        token_subset=options.data.token_subset,
    )
