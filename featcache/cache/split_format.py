"""Turn batches of features into the stored rows of a split: named, checked, quantised and rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache import codec
from featcache.cache.array import ShardedArray
from featcache.cache.layout import ArrayLayout
from featcache.cache.quantise import Quantised, quantise
from featcache.cache.reader import CacheReader, SplitReader
from featcache.cache.schema import value_types
from featcache.cache.spec import Shapes, array_name, scale_name
from featcache.errors import CacheError, option
from featcache.specs import ValueType

STATUS = "status"
Tokens = NDArray[Any] | Quantised


@dataclass(frozen=True)
class SplitFormat:
    """The arrays of a split, and how features become their rows."""

    layouts: Mapping[str, ArrayLayout]
    """By array, `status` included."""
    kinds: Mapping[str, ValueType]
    """Types of the values that must be finite, by array."""
    std: Mapping[str, NDArray[np.float32]]
    """(D,) divisors of int8 tokens, by token array."""
    shapes: Shapes

    @classmethod
    def of(cls, cache: CacheReader, split: SplitReader) -> SplitFormat:
        """Read the format of an existing split."""
        shapes, names = cache.shapes, (*split.arrays, STATUS)
        return cls(
            layouts={name: ShardedArray.open(split.storage.below(name)).layout for name in names},
            kinds=value_types(shapes, cache.spec.dtype),
            std={array_name(shapes, a.layer): np.array(a.std, np.float32) for a in shapes.layers if a.std},
            shapes=shapes,
        )

    def nbytes(self, rows: int) -> int:
        """Return the bytes of so many rows of one view, with the index of each shard."""
        return sum(rows * layout.row_bytes + layout.index_bytes for layout in self.layouts.values())

    def batch(
        self, tokens: Mapping[int, Tokens], pooled: NDArray[Any], mask: NDArray[np.bool_] | None
    ) -> dict[str, Tokens]:
        """Name the arrays of a batch; raise CacheError if a shape does not fit the cache."""
        batch: dict[str, Tokens] = {
            array_name(self.shapes, layer): values for layer, values in tokens.items()
        }
        batch["pooled"] = pooled
        if mask is not None:
            batch["token_mask"] = mask
        made_here = {STATUS, *map(scale_name, self.std)}
        layouts = {name: layout for name, layout in self.layouts.items() if name not in made_here}
        got = {name: tuple(values.shape) for name, values in batch.items()}
        expected = {name: (len(pooled), *layout.row_shape) for name, layout in layouts.items()}
        if got != expected:
            raise CacheError("a batch does not have the shapes of the cache", got=got, expected=expected)
        return batch

    def stored(self, name: str, values: Tokens) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Yield (array, values, stored values): the array itself, after the scales of int8 tokens."""
        if name in self.std:
            held = values if isinstance(values, Quantised) else quantise(values, self.std[name])
            values = held.values
            yield from self.stored(scale_name(name), held.scale)
        assert not isinstance(values, Quantised), f"int8 tokens for `{name}`, which stores none"
        if name in self.kinds:
            yield name, values, codec.to_storage(values, self.kinds[name])
        else:
            yield name, values, np.ascontiguousarray(values, self.layouts[name].dtype)

    def not_finite(self, name: str, value: float, sample: str) -> CacheError:
        """Return the error for a value of a sample that is not finite once it is stored."""
        where = f"in `{name}` of sample {sample}"
        if np.isfinite(value):
            wider = f"{option('dtype', 'bfloat16')} or {option('dtype', 'float32')}"
            return CacheError(
                f"{self.kinds[name]} cannot hold {value:.4g}, {where}",
                expected="a smaller value",
                hint=f"{wider}, with {option('overwrite', True)}",
            )
        return CacheError(
            f"the model gave {value}, {where}",
            expected="finite values",
            hint=f"look at that sample, or try {option('amp', 'float32')}",
        )
