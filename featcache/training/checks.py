"""Check that a training can work, before anything is written."""

from __future__ import annotations

from featcache.cache.reader import CacheReader, SplitReader
from featcache.errors import TrainError, option
from featcache.training.options import DataOptions, TrainOptions

NO_TEST = "none"


def whole_split(cache: CacheReader, role: str, name: str) -> SplitReader:
    """Open the split to train or to test on.

    Raises TrainError if it does not exist, and CacheError if it is not complete.
    """
    if name not in cache.split_names:
        raise TrainError(
            f"the cache has no split `{name}` to {role} on",
            got=", ".join(cache.split_names) or "no split at all",
            hint=f"extract it into the cache, or choose another with {option(f'data.{role}')}",
        )
    split = cache.split(name)
    split.check()
    return split


def test_split(cache: CacheReader, name: str) -> SplitReader | None:
    """Open the split to test on; None for the name `none`, and if the cache has no split `test`."""
    if name == NO_TEST or (name == DataOptions().test and name not in cache.split_names):
        return None
    return whole_split(cache, "test", name)


def refuse_missing_cls(cache: CacheReader, options: TrainOptions) -> None:
    """Raise TrainError if tokens are to be pooled by a CLS token that the cache does not hold."""
    layers = {shape.layer: shape for shape in cache.shapes.layers}
    layer = cache.shapes.layers[0].layer if options.data.layer is None else options.data.layer
    shape = layers.get(layer)
    # A text begins with its CLS token and has no grid.
    if options.projector.pool == "cls" and shape and shape.grid and not shape.prefix:
        raise TrainError(
            "the cache has no CLS token to pool by",
            got=f"{option('projector.pool', 'cls')} and a grid of {shape.tokens} tokens without a prefix",
            expected="attention, mean or gem",
            hint=f"use {option('projector.pool', 'attention')}, or extract with {option('tokens', 'all')} "
            "from a model that has a CLS token",
        )


def refuse_seed(name: str, seed: int) -> None:
    """Raise TrainError for a seed that the random generators do not accept."""
    if not 0 <= seed < 2**32:
        got, expected = option(name, seed), f"0 to {2**32 - 1}"
        raise TrainError("the seed is out of range", got=got, expected=expected)


def refuse_share(name: str, share: float) -> None:
    """Raise TrainError for a share that is not at least 0 and below 1."""
    if not 0 <= share < 1:
        raise TrainError(f"{option(name, share)} is no share", expected="at least 0 and below 1, such as 0.2")


def refuse_leak(train: str, test: str) -> None:
    """Raise TrainError if the training split is also the test split."""
    if train == test:
        raise TrainError(
            "the training and the test split are the same",
            got=train,
            expected="two different splits, because a training must not see test rows",
            hint=f"choose another with {option('data.test')}, or none with {option('data.test', NO_TEST)}",
        )
