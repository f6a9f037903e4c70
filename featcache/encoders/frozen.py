"""What the model families share: holding a module still, seeding and hashing it, saying what went wrong."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache.encoders.base import EncoderSpec
from featcache.errors import EncoderError

_rng = threading.RLock()


class FrozenEncoder:
    """The part of an Encoder that every family has: one module, in evaluation mode, without gradients."""

    templates: tuple[str, ...] = ()

    def __init__(
        self, module: nn.Module, spec: EncoderSpec, transform: Callable[[Any], dict[str, Tensor]]
    ) -> None:
        self.module: Any = module.eval().requires_grad_(False)
        self.spec, self.transform = spec, transform
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move the module; inputs follow by themselves."""
        self.module.to(device)
        self.device = device

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """None: there is no text tower."""
        return None

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs where the module is."""
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}


@dataclass(frozen=True)
class Keyed:
    """A transform to one tensor, as the transform to a dict of tensors that an Encoder has."""

    key: str
    transform: Callable[[Any], Tensor]

    def __call__(self, data: Any) -> dict[str, Tensor]:
        return {self.key: self.transform(data)}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over the names, dtypes, shapes and bytes of the state dict, in the order of the names.

    >>> one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> weights_digest(one) == weights_digest(two)
    False
    >>> two.load_state_dict(one.state_dict())
    <All keys matched successfully>
    >>> weights_digest(one) == weights_digest(two)
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator, seeded inside the block and as before after it.

    For libraries that know no other generator. Threads take turns, as they share that generator.
    """
    with _rng, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps a library's `logging.warning` from installing a handler; the user's handlers still hear it."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def portable(name: str) -> str:
    """A model's name without the place it has on this machine: of a path, the last part.

    `name` is a file or folder, or an architecture, a slash and a file; any other name is given back.

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
    return f"{architecture}/{Path(file).name}" if slash and Path(file).is_file() else name


def random_seed(tag: str) -> int | None:
    """The seed in a tag that asks for random weights, None for any other tag.

    >>> random_seed("random"), random_seed("random-7"), random_seed("laion2b")
    (0, 7, None)
    """
    found = re.fullmatch(r"random(?:-(\d+))?", tag)
    return int(found[1] or 0) if found else None


def block_indices(layers: Sequence[int]) -> list[int]:
    """The layers to take on the way, first to last; the last one always, as the pooled embedding needs it.

    >>> block_indices([-1, -3])
    [-3, -1]
    """
    if not layers or max(layers) >= 0:
        raise EncoderError("layers count from the end", got=list(layers), expected="-1, -2, ...")
    return sorted({*layers, -1})


@contextmanager
def layer_errors(model: str, layers: Sequence[int]) -> Iterator[None]:
    """timm and open_clip refuse a layer that does not exist (or an image size) by a bare assertion."""
    try:
        yield
    except (AssertionError, IndexError) as error:
        raise EncoderError(f"{model} cannot give layers {list(layers)}", got=str(error)) from error


@contextmanager
def load_errors(model: str, hint: str) -> Iterator[None]:
    """Whatever a library raises while it builds a model or reads its weights, as one EncoderError."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        got = f"{type(error).__name__}: " + " ".join(line.strip() for line in lines[:2])
        raise EncoderError(f"cannot load {model}", got=got[:400], hint=hint) from error


def nearest(name: str, known: Iterable[str], listing: str) -> str:
    """A hint with the few known names nearest to `name`, and the call that lists all of them.

    >>> nearest("ViT-B32", ["ViT-B-32", "RN50"], "open_clip.list_models()")
    'did you mean `ViT-B-32`? all names: open_clip.list_models()'
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return (
        f"did you mean {', '.join(f'`{each}`' for each in near)}? " if near else ""
    ) + f"all names: {listing}"
