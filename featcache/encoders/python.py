"""A user's own frozen module: `python:path/to/file.py:factory`.

`factory()` returns `(module, transform)`. `transform` turns one sample (PIL image or str) into a tensor or a
dict of tensors. `module` (a torch module) takes the stacked tensor, or the dict as keywords, and returns

- tokens (B, T, D), or
- a feature map (B, C, H, W), or
- a dict with `tokens`: either of these, or a dict of them by layer: {-1: ..., -2: ...}. It may also have
  `mask` (B, T) bool, `pooled` (B, P), `prefix` (the number of tokens before the grid) and `grid` (rows,
  columns).

By default, `pooled` is the mean of the last layer's real tokens. A text module has `modality = "text"`.
A factory may also return a whole `featcache.encoders.base.Encoder`. It runs with seed 0 of torch's CPU
generator. It can import installed packages, but not files beside its own.

The identity of the model covers its parameters and buffers and the file of its factory. Data that it reads
from other files is covered if it says which: `files`, a list of paths, as an attribute of the module or the
factory.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from featcache.config import did_you_mean
from featcache.encoders._loading import load_errors
from featcache.encoders.base import (
    Encoded,
    Encoder,
    FrozenEncoder,
    Geometry,
    Inputs,
    Layer,
    from_map,
    masked_mean,
    weights_digest,
)
from featcache.errors import EncoderError
from featcache.plugins import execute_file
from featcache.randomness import seeded
from featcache.specs import EncoderSpec, Modality

_SINGLE = "input"
_PARTS = {"tokens", "mask", "pooled", "prefix", "grid"}
_RETURNS = "(module, transform), or an Encoder"
_ENCODER = ("spec", "transform", "templates", "to", "encode", "encode_text")


def load(name: str) -> Encoder:
    """Return the encoder made by the factory; raise EncoderError with the file's name if there is none."""
    file, colon, attribute = name.rpartition(":")
    if not (colon and file and attribute):
        raise EncoderError(
            "the name has no factory", got=f"python:{name}", expected="python:path/to/file.py:factory"
        )
    path = Path(file)
    if not path.is_file():
        raise EncoderError(
            "there is no such Python file", got=file, expected="python:path/to/file.py:factory"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with load_errors(f"python:{name}", "the error was raised by that file"), seeded(0):
        user = _import(path, digest)
        if not callable(getattr(user, attribute, None)):
            hint = did_you_mean(attribute, [key for key in vars(user) if not key.startswith("_")])
            raise EncoderError(f"{path} has no function `{attribute}`", hint=hint)
        factory = getattr(user, attribute)
        made = factory()
    encoder = _adopt(f"python:{path.name}:{attribute}", f"{attribute} of a file with SHA-256 {digest}", made)
    module = made[0] if isinstance(made, tuple) else made
    if files := [*getattr(factory, "files", ()), *getattr(module, "files", ())]:
        encoder.spec = _with_files(encoder.spec, files, path.parent)
    return encoder


def _import(path: Path, digest: str) -> ModuleType:
    """Import the file as a module whose name holds its digest."""
    import cloudpickle

    user = execute_file(path, f"featcache_user_{digest[:16]}", error=EncoderError)
    # A worker process cannot import the file by this name, so its objects are pickled by value.
    cloudpickle.register_pickle_by_value(user)
    return user


def _adopt(name: str, preprocess: str, made: Any) -> Encoder:
    """Return the factory's result as an encoder; raise EncoderError if it is not one."""
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1]):
        module, transform = made
        modality = getattr(module, "modality", "image")
        if modality not in get_args(Modality):
            raise EncoderError(f"{name} has an unknown modality", got=modality, expected="image or text")
        spec = EncoderSpec(
            name=name,
            weights=weights_digest(module),
            modality=modality,
            preprocess=preprocess,
            norm="the module's own",
            projection="the module's own, or the mean of tokens",
        )
        return PythonEncoder(module, spec, Portable(transform))
    if all(hasattr(made, part) for part in _ENCODER):
        encoder: Encoder = made
        encoder.transform = Portable(made.transform)
        return encoder
    got = tuple(type(part).__name__ for part in made) if isinstance(made, tuple) else type(made).__name__
    raise EncoderError(f"{name} returned an unsupported type", got=got, expected=_RETURNS)


def _with_files(spec: EncoderSpec, files: Sequence[Any], folder: Path) -> EncoderSpec:
    """Return the spec with the content of files in the digest of the weights.

    A relative path is looked up in the current folder, then in that of the factory. Raise EncoderError for a
    file that cannot be read.
    """
    digest = hashlib.sha256(spec.weights.encode())
    for name in map(Path, files):
        place = name if name.exists() else folder / name
        try:
            with place.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise EncoderError(
                f"a file that {spec.name} reads cannot be opened",
                got=f"{name}: {error.strerror}",
                expected="paths of files in `files`",
            ) from None
    return spec.model_copy(update={"weights": digest.hexdigest()})


class Portable:
    """A user's transform that can be sent to a worker process; it returns a dict of tensors.

    A single tensor gets the key `input`.
    """

    def __init__(self, transform: Callable[[Any], Tensor | Mapping[str, Tensor]]) -> None:
        self.transform = transform

    def __call__(self, data: Any) -> dict[str, Tensor]:
        made = self.transform(data)
        if isinstance(made, Tensor):
            return {_SINGLE: made}
        if isinstance(made, Mapping) and all(isinstance(value, Tensor) for value in made.values()):
            return dict(made)
        raise EncoderError(
            "the transform returned an unsupported type",
            got=type(made).__name__,
            expected="a tensor or a dict of tensors",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        return _unpack, (cloudpickle.dumps(self.transform),)


def _unpack(data: bytes) -> Portable:
    """Undo `Portable.__reduce__` in a worker process."""
    return Portable(pickle.loads(data))


class PythonEncoder(FrozenEncoder):
    """A user's module; its inputs are the stacked results of the transform."""

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Return the module's output as tokens by layer, mask, pooled and geometry."""
        batch = self.on_device(inputs)
        with torch.inference_mode():
            out = self.module(batch[_SINGLE]) if batch.keys() == {_SINGLE} else self.module(**batch)
            return _read(out, layers, self.spec.name)

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Return `pooled` of the texts, (n, P), for a text module, else None."""
        if self.spec.modality != "text":
            return None
        pooled = []
        for text in texts:
            inputs = {key: value.unsqueeze(0) for key, value in self.transform(text).items()}
            pooled.append(self.encode(inputs, [-1]).pooled)
        return torch.cat(pooled)


def _read(out: Any, layers: Sequence[int], name: str) -> Encoded:
    """Return a module's output as `Encoded`; raise EncoderError for wrong keys, layers or shapes."""
    parts = dict(out) if isinstance(out, Mapping) else {"tokens": out}
    if "tokens" not in parts or parts.keys() - _PARTS:
        raise EncoderError(
            f"{name} returned missing or unknown keys",
            got=", ".join(map(str, parts)),
            expected=", ".join(sorted(_PARTS)),
        )
    given = parts["tokens"] if isinstance(parts["tokens"], Mapping) else {-1: parts["tokens"]}
    missing = set(layers) - set(given)
    if missing:
        raise EncoderError(
            f"{name} gives no layer {max(missing)}", expected=f"one of {sorted(given, reverse=True)}"
        )
    geometry = Geometry(parts.get("prefix", 0), parts.get("grid"))
    every = {layer: _layer(value, geometry, name) for layer, value in given.items()}
    mask, pooled = parts.get("mask"), parts.get("pooled")
    return Encoded(
        tokens={layer: every[layer][0] for layer in layers},
        mask=mask,
        pooled=masked_mean(every[max(every)][0], mask) if pooled is None else pooled,
        geometry={layer: every[layer][1] for layer in layers},
    )


def _layer(value: Any, geometry: Geometry, name: str) -> Layer:
    """Return one layer of a module's output as tokens with their positions."""
    rank = value.ndim if isinstance(value, Tensor) else None
    if rank == 4:
        return from_map(value)
    if rank == 3:
        return value, geometry
    got = type(value).__name__ if rank is None else tuple(value.shape)
    raise EncoderError(
        f"{name} returned tokens of a wrong shape", got=got, expected="(B, T, D) or (B, C, H, W)"
    )
