"""Two caches in one training: proportions, order, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featcache.batch import Views
from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, CacheMismatch, TrainError
from featcache.loading.replay import ReplayCache
from featcache.loading.splits import LabelSplit, choose_classes
from featcache.loading.store import reside
from featcache.training.data import Draw, TrainingData
from featcache.training.loop import make_loader
from featcache.training.options import TrainOptions

CPU = torch.device("cpu")
VIEWS = Views((), ("weak", "weak"), ("weak", "eval"))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(make_cache, tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("target") / "c.zarr", weak=2)


@pytest.fixture
def other(make_cache, tmp_path):
    splits = {"old": [0, 1] * 10 + [-1], "test": [0, 1, 0, -1]}

    def make(**options):
        return make_cache(tmp_path / "other.zarr", **{"splits": splits, "classes": ("x", "y"), **options})

    return make


def opened(path, target, split="old", test="test", layer=None):
    first = CacheReader.open(target)
    held_out = first.split("test").spec
    return ReplayCache.open(path, split, test, like=first.features(layer), held_out=held_out)


def loader(target, second, *, ratio=0.25, residency="stream", seed=3, views=VIEWS):
    """As a training makes it, for a learner that asks for these views."""
    options = TrainOptions.parse(
        {"optim": {"batch_size": 4, "uratio": 2.0}, "data": {"replay_ratio": ratio}}, "the options"
    )
    reside(second.store, residency, CPU)
    data = TrainingData.open(CacheReader.open(target), options.data, CPU)
    draw = Draw(
        data,
        choose_classes(3, seed=0),
        LabelSplit(np.arange(30)[::3], np.arange(30)),
        seed=0,
        aside=np.empty(0, int),
    )
    learner = SimpleNamespace(views=lambda available: views)
    return make_loader(learner, draw, options, order_seed=seed, replay=second)


def pooled(batch):
    return [part.pooled.clone() for part in (*batch.unlabelled, *batch.replay)]


@pytest.mark.parametrize("residency", ["stream", "ram"])
def test_proportions_are_exact_and_values_the_second_cache_s(target, other, residency):
    second = opened(other(weak=1, failed={"old": [4]}), target)
    assert second.rows.tolist() == [row for row in range(21) if row != 4]
    made = loader(target, second, residency=residency)
    stream = made.streams["replay"]
    store = stream.store
    seen = []
    for step, batch in enumerate(made.steps(0, 20)):
        assert [len(part.pooled) for part in batch.replay] == [2, 2]
        rows = stream.plan.batch(step)
        seen += rows.tolist()
        for part, view in zip(batch.replay, (1, 0), strict=True):
            expected = store.gather(rows, view, store.buffers(2))
            assert torch.equal(part.tokens, expected.tokens)
            assert torch.equal(part.pooled, expected.pooled)
    assert sorted(seen) == sorted([*second.rows] * 2)


@pytest.mark.parametrize(("ratio", "size"), [(0.001, 1), (0.5, 4), (1.0, 8), (100.0, 21)])
def test_sizes(target, other, ratio, size):
    assert loader(target, opened(other(), target), ratio=ratio).streams["replay"].plan.batch_size == size


def test_deterministic_and_resumable(target, other):
    second = opened(other(), target)
    whole = [pooled(batch) for batch in loader(target, second).steps(0, 12)]
    rest = [pooled(batch) for batch in loader(target, second).steps(5, 12)]
    for a, b in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    different = [pooled(batch) for batch in loader(target, second, seed=4).steps(0, 12)]
    assert any(not torch.equal(a[-1], b[-1]) for a, b in zip(whole, different, strict=True))


def test_the_target_s_stream_is_the_same_with_and_without(target, other):
    second = opened(other(), target)
    without = [pooled(b) for b in loader(target, second, views=VIEWS._replace(replay=())).steps(0, 6)]
    for (*both, _, _), alone in zip(map(pooled, loader(target, second).steps(0, 6)), without, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(both, alone, strict=True))


def test_views_it_does_not_hold_are_read_plain(target, other):
    made = loader(target, opened(other(), target))
    assert made.streams["replay"].families == ("eval", "eval")
    assert next(made.steps(0, 1)).replay[0].pooled.shape == (2, 8)


def test_other_features_are_refused_by_name(target, other, make_cache, tmp_path):
    with pytest.raises(CacheMismatch, match=r"another `pooled`\n +got: +6 in[\s\S]*expected: 8 in"):
        opened(other(pooled=6), target)
    layers = make_cache(tmp_path / "layers.zarr", layers=(-1, -2))
    with pytest.raises(CacheMismatch, match=r"another `layer`\n +got: +-1 in the cache\n +expected: -2"):
        opened(target, layers, split="train", test="none", layer=-2)


def test_test_rows_are_refused(target, other):
    with pytest.raises(TrainError, match=r"test rows[\s\S]*replay_split"):
        opened(target, target, split="test", test="none")
    with pytest.raises(TrainError, match="test rows"):
        opened(other(), target, split="test")


def test_a_split_that_is_missing_or_unreadable(target, other):
    path = other(failed={"old": range(21)})
    with pytest.raises(CacheError, match=r"no split `train`[\s\S]*known: old, test"):
        opened(path, target, split="train")
    with pytest.raises(TrainError, match="has no readable row"):
        opened(path, target)
    assert opened(target, target, split="train", test="none").test is None
