"""Tensors of torch: `.pt` and `.pth`, never running code (tensors and plain values only); safetensors."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import SourceError
from featcache.exchange.columns import Column, Handle, Opened, native
from featcache.exchange.formats.numpy_ import BARE

SUFFIXES = (".pt", ".pth", ".safetensors")
_KINDS = {"int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"}
_IDS = "ids_json"


def open_file(path: Path, name: str) -> Opened:
    """Return the tensors of a file; keys of nested dicts are joined by `/`.

    Raise SourceError if it cannot be read without running code.
    """
    return _safetensors(path, name) if path.suffix == ".safetensors" else _torch(path, name)


def _torch(path: Path, name: str) -> Opened:
    import torch

    mapped = zipfile.is_zipfile(path)  # unlike a file of before torch 1.6
    piece = 1 << 25 if mapped else 0

    def make() -> dict[str, Any]:
        try:
            return dict(_leaves(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)))
        except pickle.UnpicklingError as error:
            raise SourceError(
                f"{name} holds more than tensors; it could run code and is not read",
                got=_asked(str(error)),
                expected="tensors, dicts and lists of them, numbers and texts",
                hint="save them again: torch.save({'pooled': tensor, 'ids': list_of_str}, PATH)",
            ) from None
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            got = str(error).partition("\n")[0] or "an empty file"
            raise SourceError(f"{name} cannot be read by torch", got=got) from None

    handle = Handle(make)
    columns: dict[str, Column] = {}
    for key, value in handle().items():
        where = f"`{key}` in {name}"
        if isinstance(value, torch.Tensor):
            if value.ndim:
                columns[key] = _tensor(lambda key=key: handle(piece)[key], value, where)  # type: ignore[misc]
        elif (found := _listed(value, where)) is not None:
            columns[key] = found
    return Opened(name, columns)


def _asked(message: str) -> str:
    """Return what a pickle asked for, from torch's long message."""
    found = re.search(r"GLOBAL (\S+)", message)
    return f"it asks for {found[1]}" if found else message.partition("\n")[0]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{prefix}/{key}" if prefix else str(key))
    else:
        yield prefix or BARE, value


def _tensor(get: Callable[[], Any], tensor: Any, where: str) -> Column:
    kind = _kind(tensor)

    def read(start: int, stop: int) -> Any:
        part = get()[start:stop].detach()
        return native((part.float() if kind == "bfloat16" else part).numpy())

    return Column(where, tensor.shape[0], tuple(tensor.shape[1:]), kind, read)


def _listed(value: Any, where: str) -> Column | None:
    """Return a list of texts, of numbers, or of tensors (T, D) that may differ in T; None for others."""
    import torch

    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(item, (str, int, float, type(None))) for item in value):
        kind = "int" if all(isinstance(item, int) for item in value) else "string"
        return Column(where, len(value), (), kind, lambda start, stop: list(value[start:stop]))
    first = value[0]
    if not all(isinstance(item, torch.Tensor) and item.ndim == 2 for item in value):
        return None
    width, kind = first.shape[1], _kind(first)
    if any(item.shape[1] != width or item.dtype != first.dtype for item in value):
        raise SourceError(f"the tensors of {where} differ in width or type", expected=f"(T, {width}) {kind}")

    def read(start: int, stop: int) -> Any:
        return [native((item.float() if kind == "bfloat16" else item).numpy()) for item in value[start:stop]]

    return Column(where, len(value), (None, width), kind, read, max(len(item) for item in value))


def _kind(tensor: Any) -> str:
    if str(tensor.layout) != "torch.strided":
        return str(tensor.layout)
    kind = str(tensor.dtype).removeprefix("torch.")
    return "int" if kind in _KINDS else kind


def _safetensors(path: Path, name: str) -> Opened:
    import torch
    from safetensors import SafetensorError, safe_open

    def make() -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{name} cannot be read as safetensors", got=error) from None

    handle = Handle(make)
    columns: dict[str, Column] = {}
    for key in handle().keys():  # noqa: SIM118
        part, where = handle().get_slice(key), f"`{key}` in {name}"
        shape = tuple(part.get_shape())
        if not shape:
            continue
        if key.rpartition("/")[2] == _IDS:
            texts = json.loads(bytes(handle().get_tensor(key).numpy()))
            base = key.removesuffix("_json")
            columns[base] = Column(where, len(texts), (), "string", lambda a, b, t=texts: t[a:b])  # type: ignore[misc]
            continue
        empty = torch.empty(0) if 0 in shape else part[:1]
        row_bytes = empty.nbytes
        get = lambda a, b, key=key, n=row_bytes: handle((b - a) * n).get_slice(key)[a:b]  # noqa: E731
        columns[key] = _sliced(get, shape, _kind(empty), where)
    metadata = handle().metadata() or {}
    classes, described = metadata.get("class_names"), metadata.get("featcache")
    return Opened(
        name,
        columns,
        tuple(json.loads(classes)) if classes else None,
        described=json.loads(described) if described else None,
    )


def _sliced(get: Callable[[int, int], Any], shape: tuple[int, ...], kind: str, where: str) -> Column:
    def read(start: int, stop: int) -> Any:
        part = get(start, stop)
        return native(np.array((part.float() if kind == "bfloat16" else part).numpy()))

    return Column(where, shape[0], shape[1:], kind, read)
