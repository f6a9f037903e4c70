"""Refuse a training that cannot work, before anything is written."""

from __future__ import annotations

from featcache.cache.reader import CacheReader, SplitReader
from featcache.errors import TrainError, option
from featcache.training.options import TrainOptions


def whole_split(cache: CacheReader, role: str, name: str) -> SplitReader:
    """Open the split to train or to test on; raises TrainError if missing, CacheError if not complete."""
    if name not in cache.split_names:
        raise TrainError(
            f"the cache has no split `{name}` to {role} on",
            got=", ".join(cache.split_names) or "no split at all",
            hint=f"extract it into the cache, or name another with {option(f'data.{role}')}",
        )
    split = cache.split(name)
    split.check()
    return split


def refuse_missing_cls(cache: CacheReader, options: TrainOptions) -> None:
    """Raise TrainError where tokens without a CLS token are to be aggregated by it."""
    layers = {shape.layer: shape for shape in cache.shapes.layers}
    layer = cache.shapes.layers[0].layer if options.data.layer is None else options.data.layer
    shape = layers.get(layer)
    # Texts begin with their CLS token, which has no place in a grid.
    if options.projector.pool == "cls" and shape and shape.grid and not shape.prefix:
        raise TrainError(
            "these tokens have no CLS token to aggregate",
            got=f"{option('projector.pool', 'cls')}, and a grid of {shape.tokens} tokens without a prefix",
            expected="attention, mean or gem",
            hint=f"{option('projector.pool', 'attention')}, or extract with {option('tokens', 'all')} from a "
            "model that has a CLS token",
        )


def refuse_seed(seed: int) -> None:
    """Raise TrainError for a seed outside the range of the generators."""
    if not 0 <= seed < 2**32:
        raise TrainError("this seed cannot be used", got=seed, expected=f"0 to {2**32 - 1}")


def refuse_leak(train: str, test: str) -> None:
    """Raise TrainError where the training would learn from test rows."""
    if train == test:
        raise TrainError(
            "the training and the test split are the same",
            got=train,
            expected="two splits: test rows never take part in training",
            hint=f"extract a test split into the cache, or name it with {option('data.test')}",
        )


def refuse_unlabelled_test(rows: int, name: str) -> None:
    """Raise TrainError where no test row has a label."""
    if not rows:
        raise TrainError(
            f"the split `{name}` has no labelled, readable row to test on",
            hint=f"extract a labelled test split, or name another with {option('data.test')}",
        )
