"""Helpers for loading models: quiet libraries, portable names, translated errors."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from featcache.errors import EncoderError


@contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's `logging.warning` from installing a handler; the user's handlers still get it."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def portable(name: str) -> str:
    """Return a model's name without the folders of this machine: the last part of a path.

    `name` is a file or folder, or an architecture, a slash and a file, perhaps with `#SET`. Any other name is
    returned unchanged.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
    ...     portable(f"ViT-B-32/{file.name}") == f"ViT-B-32/{Path(file.name).name}"
    True
    >>> portable("ViT-B-32/laion2b_s34b_b79k")
    'ViT-B-32/laion2b_s34b_b79k'
    """
    if Path(name).exists():
        return Path(name).resolve().name
    architecture, slash, file = name.partition("/")
    found = slash and (Path(file).is_file() or Path(file.rpartition("#")[0]).is_file())
    return f"{architecture}/{Path(file).name}" if found else name


def random_seed(tag: str) -> int | None:
    """Return the seed in a tag for random weights, or None for any other tag.

    >>> random_seed("random"), random_seed("random-7"), random_seed("laion2b")
    (0, 7, None)
    """
    found = re.fullmatch(r"random(?:-(\d+))?", tag)
    return int(found[1] or 0) if found else None


def block_indices(layers: Sequence[int]) -> list[int]:
    """Return the layers to read, first to last, with the last layer, which the pooled embedding needs.

    >>> block_indices([-1, -3])
    [-3, -1]
    """
    if not layers or max(layers) >= 0:
        raise EncoderError("layers count from the end", got=list(layers), expected="-1, -2, ...")
    return sorted({*layers, -1})


@contextmanager
def layer_errors(model: str, layers: Sequence[int]) -> Iterator[None]:
    """Raise EncoderError where timm and open_clip assert that a layer exists or an image size fits."""
    try:
        yield
    except (AssertionError, IndexError) as error:
        raise EncoderError(f"{model} cannot give layers {list(layers)}", got=error) from error


@contextmanager
def load_errors(model: str, hint: str) -> Iterator[None]:
    """Raise EncoderError for any exception of a library that builds a model or reads its weights."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        got = f"{type(error).__name__}: " + " ".join(line.strip() for line in lines[:2])
        if _is_offline(error):
            hint = "its files are not on this machine, and there is no network: go online, or give a path"
        raise EncoderError(f"cannot load {model}", got=got[:400], hint=hint) from error


_OFFLINE = {
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "LocalEntryNotFoundError",
    "MaxRetryError",
    "NameResolutionError",
    "OfflineModeIsEnabled",
    "URLError",
    "gaierror",
}
"""Names of exceptions of requests, httpx, urllib, huggingface_hub and socket without a network."""


def _is_offline(error: BaseException | None) -> bool:
    """Return True if the exception, or one that led to it, means that there is no network."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if type(error).__name__ in _OFFLINE:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def nearest(name: str, known: Iterable[str], listing: str) -> str:
    """Return a hint with the known names nearest to `name`, and the call that lists all names.

    >>> nearest("ViT-B32", ["ViT-B-32", "RN50"], "open_clip.list_models()")
    'did you mean `ViT-B-32`? all names: open_clip.list_models()'
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return (
        f"did you mean {', '.join(f'`{each}`' for each in near)}? " if near else ""
    ) + f"all names: {listing}"
