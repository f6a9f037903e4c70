"""The types that pass from a cache to an objective: features, a batch of them, and its views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Features(NamedTuple):
    """Rows of a cache in one view, on the training device."""

    tokens: Tensor
    """(B, T, D) in the cache's dtype; float32 if that is int8."""
    mask: Tensor | None
    """(B, T) bool, False for padding; None if there is no padding."""
    pooled: Tensor
    """(B, P) pooled embeddings z* of the frozen model."""
    scale: Tensor | None = None
    """(B, T) scales of tokens that are still int8; None once the features are on the device."""

    def copy(self) -> Features:
        """Copy all tensors, because a loader reuses its buffers."""
        return Features(*(None if part is None else part.clone() for part in self))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Features:
        """Move all tensors to a device."""
        return Features(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


class Batch(NamedTuple):
    """The input of one training step: the views that the objective asked for, in its order."""

    labelled: tuple[Features, ...]
    label: Tensor
    """(B,) int64 class numbers of the task."""
    unlabelled: tuple[Features, ...]
    """(mu B) rows in each view, the same samples in every view; empty if there are none."""
    unlabelled_index: Tensor
    """(mu B,) int64 positions in the unlabelled set, for objectives that store values for each sample."""
    replay: tuple[Features, ...] = ()
    """Rows of the replay cache, the same samples in every view; empty without a replay cache."""

    @property
    def has_unlabelled(self) -> bool:
        """True if the batch has unlabelled rows."""
        return bool(self.unlabelled) and len(self.unlabelled[0].pooled) > 0


class Views(NamedTuple):
    """The families of cached views that an objective reads.

    If a family is named twice, its two views are different, if two are cached.
    """

    labelled: tuple[str, ...] = ("eval",)
    unlabelled: tuple[str, ...] = ()
    replay: tuple[str, ...] = ()
    """Families to read from the replay cache; `eval` replaces a family that it does not hold."""


def nearest_view(available: Sequence[str], *wanted: str) -> str:
    """Return the first of the `wanted` families that is `available`, else `eval`.

    >>> nearest_view(["eval", "weak"], "strong", "weak"), nearest_view(["eval"], "weak")
    ('weak', 'eval')
    """
    return next((family for family in wanted if family in available), "eval")
