"""The sharded arrays of a split: their names, row shapes and types, from the geometry of the cache."""

from __future__ import annotations

import math
from typing import NamedTuple, cast, get_args

from featcache.cache.spec import Shapes, array_name, scale_name
from featcache.specs import StoredType, ValueType

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "bool": 1, "int8": 1}


class FeatureArray(NamedTuple):
    """One array with the axes (sample, view, ...row)."""

    row: tuple[int, ...]
    """Shape of one sample in one view."""
    kind: str
    """Stored type: float16, bfloat16, float32, int8 or bool."""
    axes: tuple[str, ...]
    """Names of the row's axes."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in one view."""
        return math.prod(self.row) * _BYTES[self.kind]


def feature_arrays(shapes: Shapes, dtype: StoredType) -> dict[str, FeatureArray]:
    """Return the sharded arrays of a split, by name.

    >>> shapes = Shapes(layers=({"layer": -1, "tokens": 5, "dim": 8},), pooled=7)
    >>> {name: (array.row, array.kind) for name, array in feature_arrays(shapes, "int8").items()}
    {'tokens': ((5, 8), 'int8'), 'token_scale': ((5,), 'float32'), 'pooled': ((7,), 'float16')}
    """
    arrays: dict[str, FeatureArray] = {}
    for layer in shapes.layers:
        name = array_name(shapes, layer.layer)
        suffix = name.removeprefix("tokens")
        arrays[name] = FeatureArray((layer.tokens, layer.dim), dtype, (f"token{suffix}", f"dim{suffix}"))
        if dtype == "int8":
            arrays[scale_name(name)] = FeatureArray((layer.tokens,), "float32", (f"token{suffix}",))
    arrays["pooled"] = FeatureArray((shapes.pooled,), "float16" if dtype == "int8" else dtype, ("embedding",))
    if shapes.mask:
        arrays["token_mask"] = FeatureArray((shapes.layers[0].tokens,), "bool", ("token",))
    return arrays


def view_bytes(shapes: Shapes, dtype: StoredType) -> int:
    """Return the bytes of one sample in one view, summed over `feature_arrays`."""
    return sum(array.row_bytes for array in feature_arrays(shapes, dtype).values())


def value_types(shapes: Shapes, dtype: StoredType) -> dict[str, ValueType]:
    """Return the types of those `feature_arrays` that hold floating-point values, which must be finite."""
    kinds = {name: array.kind for name, array in feature_arrays(shapes, dtype).items()}
    return {name: cast(ValueType, kind) for name, kind in kinds.items() if kind in get_args(ValueType)}
