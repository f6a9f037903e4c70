"""A small made-up task: classes as directions, tokens around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.nn.projector import Projector, ProjectorOptions
from featcache.objectives.base import Task

DIM, TOKENS, CLASSES = 8, 5, 3


class World:
    """Draws features, batches and projectors; every draw is decided by its seed."""

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        self.classes = classes
        self.centres = 2 * torch.randn(classes, DIM, generator=torch.Generator().manual_seed(seed))

    def task(self, num_unlabelled: int = 100) -> Task:
        counts = torch.arange(1, self.classes + 1)
        return Task(self.classes, DIM, DIM, num_unlabelled, counts, torch.zeros(DIM), self.centres)

    def features(self, label: Tensor, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        tokens = self.centres[label, None] + torch.randn(len(label), TOKENS, DIM, generator=generator)
        return Features(tokens.half(), None, tokens.mean(1))

    def batch(self, views: Views, rows: int = 4, unlabelled_rows: int = 12, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(self.classes, (rows,), generator=generator)
        hidden = torch.randint(self.classes, (unlabelled_rows,), generator=generator)
        labelled = tuple(self.features(label, seed + 10 + i) for i in range(len(views.labelled)))
        unlabelled = tuple(self.features(hidden, seed + 20 + i) for i in range(len(views.unlabelled)))
        return Batch(labelled, label, unlabelled, torch.arange(unlabelled_rows))

    def projector(self, steps_away: float = 0.05, seed: int = 0) -> Projector:
        """A projector a little away from its start, so it is not the identity."""
        generator = torch.Generator().manual_seed(seed)
        projector = Projector(ProjectorOptions(heads=2), DIM, DIM, generator)
        for parameter in projector.parameters():
            parameter.data += steps_away * torch.randn(parameter.shape, generator=generator)
        return projector


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, as these tensors are tiny and idle threads busy-wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture
def world() -> World:
    return World()
