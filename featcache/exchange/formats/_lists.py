"""Turn lists of Arrow into arrays: vectors (D,), tokens (T, D), and rows that differ in length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SourceError
from featcache.exchange.columns import Shape

_KINDS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def kind_of(arrow: Any) -> tuple[int, str]:
    """Return how many lists a type is nested in, and the kind of the values inside."""
    import pyarrow.types as types

    depth, arrow = 0, storage(arrow)
    while is_list(arrow):
        depth, arrow = depth + 1, arrow.value_type
    if types.is_dictionary(arrow):
        arrow = arrow.value_type
    if types.is_string(arrow) or types.is_large_string(arrow) or types.is_string_view(arrow):
        return depth, "string"
    if types.is_integer(arrow):
        return depth, "int"
    return depth, _KINDS.get(str(arrow), str(arrow))


def storage(arrow: Any) -> Any:
    """Return the type that an extension type (of `datasets`, for example) is stored as."""
    import pyarrow

    while isinstance(arrow, pyarrow.BaseExtensionType):
        arrow = arrow.storage_type
    return arrow


def is_list(arrow: Any) -> bool:
    """Return True for any of Arrow's lists."""
    import pyarrow.types as types

    views = types.is_list_view(arrow) or types.is_large_list_view(arrow)
    plain = types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow)
    return bool(plain or views)


def lengths(array: Any) -> NDArray[np.int64]:
    """Return the length of every list of an array; -1 where there is none."""
    import pyarrow.compute as compute

    found = compute.list_value_length(plain(array)).cast("int64")
    return np.asarray(compute.fill_null(found, -1).to_numpy(zero_copy_only=False))


def plain(array: Any) -> Any:
    """Return an array of a plain type: without extension, as lists instead of views of lists."""
    import pyarrow
    import pyarrow.types as types

    while isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    if types.is_list_view(array.type) or types.is_large_list_view(array.type):
        return array.cast(pyarrow.large_list(array.type.value_type))
    return array


def to_numpy(array: Any, first_row: int, where: str) -> tuple[NDArray[Any], list[NDArray[np.int64]]]:
    """Return all values inside the lists, in order, and the lengths of the lists on each level.

    Raise SourceError for a row without a value.
    """
    levels: list[NDArray[np.int64]] = []
    array = plain(array)
    while is_list(array.type):
        found = lengths(array)
        if (found < 0).any():
            row = first_row + _owner(levels, int(np.argmax(found < 0)))
            raise SourceError(f"{where} has a row without a value", got=f"null in row {row}")
        levels.append(found)
        array = plain(array.flatten())
    # A missing number becomes NaN, which is refused later, with the name of its sample.
    return np.asarray(array.to_numpy(zero_copy_only=False)), levels


def _owner(levels: Sequence[NDArray[np.int64]], at: int) -> int:
    for level in reversed(levels):
        at = int(np.searchsorted(np.cumsum(level), at, side="right"))
    return at


def shaped(
    values: NDArray[Any], levels: Sequence[NDArray[np.int64]], shape: Shape, first: int, where: str
) -> Any:
    """Return values as (n, *shape), or as a list of arrays (t, D) where the first axis of a row is None.

    Raise SourceError for a list of another length.
    """
    for level, size in zip(levels, shape, strict=True):
        if size is not None and (level != size).any():
            got = int(level[level != size][0])
            raise SourceError(
                f"the rows of {where} differ in width", got=f"{got} values near row {first}", expected=size
            )
    if None not in shape:
        return values.reshape(-1, *[size for size in shape if size is not None])
    width = shape[1] or 1
    return np.split(values.reshape(-1, width), np.cumsum(levels[0])[:-1]) if len(levels[0]) else []
