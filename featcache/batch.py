"""The words for what flows from a cache to an objective: features, a batch of them, the views of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Features(NamedTuple):
    """Rows of a cache under one view, on the training device."""

    tokens: Tensor
    """(B, T, D), in the cache's dtype; float32 where that is int8."""
    mask: Tensor | None
    """(B, T) bool, True where a token is real; None where all are."""
    pooled: Tensor
    """(B, P): the frozen model's own embedding z*."""
    scale: Tensor | None = None
    """Only on the way to the device: the (B, T) scales of tokens that are still int8."""

    def copy(self) -> Features:
        """Copy to memory of its own, as a loader reuses its buffers."""
        return Features(*(None if part is None else part.clone() for part in self))  # type: ignore[arg-type]


class Batch(NamedTuple):
    """The input of one training step: the views that the objective asked for, in its order."""

    labelled: tuple[Features, ...]
    label: Tensor
    """(B,) int64."""
    unlabelled: tuple[Features, ...]
    """(mu B) rows each, the same samples in every view; empty where there are no unlabelled rows."""
    unlabelled_index: Tensor
    """(mu B,) int64: position of each row within the unlabelled set, for a memory per sample."""
    replay: tuple[Features, ...] = ()
    """Rows of the replay cache, the same samples in every view; empty where no such cache is named."""

    @property
    def has_unlabelled(self) -> bool:
        """Whether there is an unlabelled row in this batch."""
        return bool(self.unlabelled) and len(self.unlabelled[0].pooled) > 0


class Views(NamedTuple):
    """The families of cached views an objective reads; one asked for twice gives two views where cached."""

    labelled: tuple[str, ...] = ("eval",)
    unlabelled: tuple[str, ...] = ()
    replay: tuple[str, ...] = ()
    """Of the replay cache, if one is named; a family that it does not hold is read as `eval`."""


def nearest_view(available: Sequence[str], *wanted: str) -> str:
    """Return the first of the `wanted` families that is `available`, else `eval`, which always is.

    >>> nearest_view(["eval", "weak"], "strong", "weak"), nearest_view(["eval"], "weak")
    ('weak', 'eval')
    """
    return next((family for family in wanted if family in available), "eval")
