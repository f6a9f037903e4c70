"""What a training refuses before anything is written."""

from __future__ import annotations

from featcache.cache.reader import CacheReader, SplitReader
from featcache.errors import TrainError
from featcache.training.options import TrainOptions


def whole_split(cache: CacheReader, role: str, name: str) -> SplitReader:
    """The finished split of that name."""
    if name not in cache.split_names:
        raise TrainError(
            f"the cache has no split `{name}` to {role} on",
            got=", ".join(cache.split_names) or "no split at all",
            hint=f"extract it into the cache, or name another with --set data.{role}=...",
        )
    split = cache.split(name)
    split.check()
    return split


def refuse_missing_cls(cache: CacheReader, options: TrainOptions) -> None:
    """Raise TrainError where the CLS token is to stand for all and there is none."""
    layers = {shape.layer: shape for shape in cache.shapes.layers}
    wanted = cache.shapes.layers[0].layer if options.data.layer is None else options.data.layer
    # Texts begin with their CLS token, which has no place in a grid.
    if (
        options.projector.pool == "cls"
        and wanted in layers
        and layers[wanted].grid
        and not layers[wanted].prefix
    ):
        raise TrainError(
            "these tokens have no CLS token to aggregate",
            got=f"projector.pool=cls, and a grid of {layers[wanted].tokens} tokens without a prefix",
            expected="attention, mean or gem",
            hint="--set projector.pool=attention, or extract with --tokens all from a model that has a CLS",
        )


def refuse_seed(seed: int) -> None:
    """Raise TrainError for a seed that no generator takes."""
    if not 0 <= seed < 2**32:
        raise TrainError("this seed cannot be used", got=seed, expected=f"0 to {2**32 - 1}")


def refuse_leak(train: str, test: str) -> None:
    """Raise TrainError where test rows would be trained on."""
    if train == test:
        raise TrainError(
            "the training and the test split are the same",
            got=train,
            expected="two splits: test rows never take part in training",
            hint="extract a test split into the cache, or name it with --set data.test=...",
        )


def refuse_unlabelled_test(rows: int, name: str) -> None:
    """Raise TrainError where nothing can be reported on."""
    if not rows:
        raise TrainError(
            f"the split `{name}` has no labelled, readable row to report on",
            hint="extract a labelled test split, or name another with --set data.test=...",
        )
