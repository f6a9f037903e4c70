"""Read the rows of one split from disk, from RAM or from the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Features
from featcache.cache.array import ShardedArray
from featcache.cache.reader import CacheReader
from featcache.cache.spec import array_name, scale_name
from featcache.errors import ConfigError, option

Residency = Literal["auto", "stream", "ram", "device"]
Rows = NDArray[np.int64]
PLACES = {"stream": "streamed from disk", "ram": "resident in RAM", "device": "resident on the device"}
CHUNK_ROWS = 4096
"""Rows to load at a time, which limits the memory of the copy."""


class Column:
    """One array of a split (tokens, their scale, mask or pooled), read as tensors.

    A streamed column reads shards into the caller's buffer. A resident column indexes its copy in memory.
    """

    def __init__(self, array: ShardedArray) -> None:
        self.array = array
        self.resident: Tensor | None = None

    def buffer(self, rows: int, *, pinned: bool) -> Tensor:
        """Make an empty (rows, *row) tensor to gather into."""
        return torch.empty((rows, *self.array.row_shape), dtype=self._dtype(), pin_memory=pinned)

    def load(self, device: torch.device) -> None:
        """Load every row of every view to `device`, as (view, sample, *row)."""
        samples, views = self.array.shape[:2]
        held = torch.empty((views, samples, *self.array.row_shape), dtype=self._dtype(), device=device)
        staging = self.buffer(min(samples, CHUNK_ROWS), pinned=False)
        for view in range(views):
            for start in range(0, samples, CHUNK_ROWS):
                rows = np.arange(start, min(start + CHUNK_ROWS, samples))
                held[view, start : start + len(rows)] = self.gather(rows, view, staging[: len(rows)])
        self.array.finish_checks()
        self.resident = held

    def lengths(self) -> NDArray[np.int32]:
        """Return the (view, sample) lengths of a resident mask: tokens up to the last one that is kept."""
        assert self.resident is not None
        found: NDArray[np.int32] = torch.stack([_lengths(mask) for mask in self.resident]).cpu().numpy()
        return found

    def gather(self, rows: Rows, view: int, out: Tensor) -> Tensor:
        """Read sorted rows of one view into `out`, or index the resident copy on its own device."""
        if self.resident is None:
            self.array.gather(rows, view, _numpy(out))
            return out
        index = torch.from_numpy(rows).to(self.resident.device, non_blocking=True)
        if self.resident.device.type == "cpu":
            return torch.index_select(self.resident[view], 0, index, out=out)
        return self.resident[view].index_select(0, index)

    def _dtype(self) -> torch.dtype:
        return (
            torch.bfloat16 if self.array.bfloat16 else torch.from_numpy(np.empty(0, self.array.dtype)).dtype
        )


@dataclass
class FeatureStore:
    """The columns that a training or an evaluation reads from one split."""

    columns: dict[str, Column]
    rows: int
    view_names: tuple[str, ...]
    token_std: Tensor
    """(D,) factors of int8 tokens, besides their scale; empty for other types."""
    prefix: int
    """Number of first tokens that every random subset keeps: CLS, registers, the first token of a text."""
    lengths: NDArray[np.int32] | None = None
    """(view, sample) lengths of texts in tokens, on the host; None unless the mask is resident."""

    @classmethod
    def open(
        cls, cache: CacheReader, split_name: str, layer: int | None = None, *, checked: bool = True
    ) -> FeatureStore:
        """Open the tokens of a layer (None: the first), the mask and the pooled embeddings.

        Shards are compared with the ledger while they are read, unless `checked` is False. Raises
        ConfigError if the cache does not hold the layer.
        """
        split, tokens = cache.split(split_name), token_array(cache, layer)
        names = {"tokens": tokens, "pooled": "pooled"}
        if cache.shapes.mask:
            names["mask"] = "token_mask"
        if scale_name(tokens) in split.arrays:
            names["scale"] = scale_name(tokens)
        columns = {column: Column(split.array(name, checked=checked)) for column, name in names.items()}
        shape = next(a for a in cache.shapes.layers if array_name(cache.shapes, a.layer) == tokens)
        prefix = shape.prefix if shape.grid else max(shape.prefix, 1)
        return cls(columns, split.rows, split.views, torch.tensor(shape.std), prefix)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and views in memory."""
        return sum(column.array.nbytes for column in self.columns.values())

    def load(self, device: torch.device) -> None:
        """Make every column resident on `device`, in its stored type: int8 stays int8."""
        for column in self.columns.values():
            column.load(device)
        if mask := self.columns.get("mask"):
            self.lengths = mask.lengths()

    def buffers(self, rows: int, *, pinned: bool = False) -> dict[str, Tensor]:
        """Make one set of reusable buffers for `gather`."""
        return {name: column.buffer(rows, pinned=pinned) for name, column in self.columns.items()}

    def gather(self, rows: Rows, view: int, buffers: dict[str, Tensor]) -> Features:
        """Read sorted `rows` of one view as stored, truncated to the longest text among them.

        `on_device` turns the result into the input of a model.
        """
        got = {
            name: column.gather(rows, view, buffers[name][: len(rows)])
            for name, column in self.columns.items()
        }
        mask, tokens, scale = got.get("mask"), got["tokens"], got.get("scale")
        if mask is not None:
            # Not computed from a mask on the device, because the host would wait for the result.
            lengths = _lengths(mask).numpy() if self.lengths is None else self.lengths[view, rows]
            length = int(lengths.max(initial=1))
            mask, tokens = mask[:, :length], tokens[:, :length]
            scale = None if scale is None else scale[:, :length]
        return Features(tokens, mask, got["pooled"], scale)

    def finish_checks(self) -> None:
        """Wait until every shard read from has been checked; raise CacheError if one is damaged."""
        for column in self.columns.values():
            column.array.finish_checks()

    def read_ahead(self, rows: Rows, view: int) -> None:
        """Ask the disk for the rows of a later `gather`, without waiting."""
        for column in self.columns.values():
            if column.resident is None:
                column.array.read_ahead(rows, view)

    def on_device(self, part: Features, device: torch.device, kept: Rows | None = None) -> Features:
        """Move the result of `gather` to `device`, with the `kept` tokens only (None: all).

        int8 tokens become float32.
        """
        index = None if kept is None else torch.from_numpy(kept).to(device, non_blocking=True)

        def moved(by_token: Tensor) -> Tensor:
            there = by_token.to(device, non_blocking=True)
            return there if index is None else there.index_select(1, index)

        tokens, mask = moved(part.tokens), None if part.mask is None else moved(part.mask)
        if part.scale is not None:
            # float32 is the type of the projector's weights. In place, as that is four times as fast.
            std = self.token_std.to(device, non_blocking=True)
            tokens = tokens.float().mul_(moved(part.scale).unsqueeze(-1)).mul_(std)
        return Features(tokens, mask, part.pooled.to(device, non_blocking=True))


def token_array(cache: CacheReader, layer: int | None) -> str:
    """Return the name of the array with a layer's tokens (None: the first layer).

    Raises ConfigError, listing the layers, if the cache does not hold this one.
    """
    layers = [shape.layer for shape in cache.shapes.layers]
    if layer is not None and layer not in layers:
        raise ConfigError(
            "the cache does not hold this layer",
            got=f"layer {layer}",
            expected=" or ".join(map(str, layers)),
            hint=f"train with {option('data.layer')}, or extract again with {option('layers')}",
        )
    return array_name(cache.shapes, layers[0] if layer is None else layer)


def reside(store: FeatureStore, residency: Residency, device: torch.device) -> str:
    """Load the store to the place that `residency` names, and describe the result.

    `auto` is the device if the store fits, else RAM if it fits, else streaming. The description reads like
    "397 rows, 21.4 MB, resident in RAM".
    """
    where = choose_residency(store.nbytes, device) if residency == "auto" else residency
    if where != "stream":
        store.load(device if where == "device" else torch.device("cpu"))
    return f"{store.rows} rows, {store.nbytes / 1e6:,.1f} MB, {PLACES[where]}"


def choose_residency(needed: int, device: torch.device) -> str:
    """Choose the residency that `auto` means for `needed` bytes.

    It is `device` below 60 % of free device memory, else `ram` below 40 % of available RAM, else `stream`.
    The rest is left for the training.
    """
    if device.type == "cuda" and needed < 0.6 * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "ram" if needed < 0.4 * available_ram() else "stream"


def available_ram() -> int:
    """Return the bytes of RAM available without swapping; 0 if the system does not report it."""
    try:
        with open("/proc/meminfo") as lines:
            kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return kib * 1024
    except (OSError, StopIteration):
        return 0


def _lengths(mask: Tensor) -> Tensor:
    """Return the (B,) int32 lengths of a mask (B, T): tokens up to the last one that is kept."""
    places = torch.arange(1, mask.shape[1] + 1, dtype=torch.int32, device=mask.device)
    return torch.where(mask, places, 0).amax(1)


def _numpy(tensor: Tensor) -> NDArray[np.generic]:
    """View a tensor as a NumPy array; bfloat16 as uint16, because NumPy has no bfloat16."""
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    array: NDArray[np.generic] = bits.numpy()
    return array
