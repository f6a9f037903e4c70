"""Image models of timm.

- `timm:vit_small_patch14_dinov2.lvd142m` or `timm:resnet50`: a pretrained tag, or its default (downloaded).
- `timm:resnet50/./mine.pth` or `timm:resnet50//absolute/mine.safetensors`: a checkpoint on disk. Its head may
  be another one or missing, and its names may have a prefix. Of several sets of weights, such as `student`
  and `teacher`, the average is used, or the one of `mine.pth#student`.
- `timm:FOLDER`: a folder with `config.json` and weights, as timm's `save_for_hf` writes it.
- `timm:resnet50/random` or `/random-7`: random weights from seed 0 or 7, as a control.
- `timm:hf-hub:ORG/REPO`: a timm model on the Hugging Face hub (downloaded).

Tokens are prefix tokens (CLS, registers) and patches, or the feature map of a convolutional model. pooled is
the classifier's input.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from featcache.encoders._checkpoint import State, fitting, read, split_choice
from featcache.encoders._loading import (
    block_indices,
    layer_errors,
    load_errors,
    nearest,
    portable,
    quiet,
    random_seed,
)
from featcache.encoders.base import Encoded, FrozenEncoder, Inputs, Keyed, from_map, weights_digest
from featcache.errors import EncoderError
from featcache.randomness import seeded
from featcache.specs import EncoderSpec

_HINT = "the weights must be timm's, for the same architecture"


def load(name: str) -> Timm:
    """Return the model called `name`, see the module's docstring.

    Raise EncoderError if there is no such model, or if the weights do not fit it.
    """
    if name.startswith("hf-hub:"):
        return _build(name, name, pretrained=True)
    if (Path(name) / "config.json").is_file():
        return _build(name, f"local-dir:{name}", pretrained=True)
    architecture, slash, weights = name.partition("/")
    _check_name(architecture)
    if not slash:
        return _build(name, architecture, pretrained=True)
    seed = random_seed(weights)
    if seed is not None:
        return _build(name, architecture, seed=seed)
    file, chosen = split_choice(weights)
    if not Path(file).is_file():
        raise EncoderError(
            f"no weights for timm's {architecture}",
            got=weights or "nothing after the slash",
            expected="a checkpoint that exists, or random",
            hint=f"pretrained weights are a tag: timm:{architecture}.TAG",
        )
    if Path(file).suffix in (".npz", ".npy"):
        return _build(name, architecture, checkpoint_path=file)
    return _from_checkpoint(name, architecture, file, chosen)


def _check_name(architecture: str) -> None:
    """Raise EncoderError for an unknown architecture or pretrained tag."""
    import timm

    base, dot, tag = architecture.partition(".")
    if not timm.is_model(base):
        hint = nearest(base, timm.list_models(), "timm.list_models()")
        raise EncoderError("no timm model has this name", got=architecture, hint=hint)
    known = timm.list_pretrained(f"{base}.*")
    if dot and architecture not in known:
        raise EncoderError(
            f"timm's {base} has no such pretrained tag",
            got=tag,
            expected=", ".join(known) or "no tag: this model has no pretrained weights",
        )


def _from_checkpoint(name: str, architecture: str, file: str, chosen: str | None) -> Timm:
    """Create the model with the weights of a file, without its head where that of the file differs."""
    timm: Any = importlib.import_module("timm")
    forms: list[Any] = []

    def states() -> Iterator[State]:
        for options in ({}, {"num_classes": 0}):
            forms.append(timm.create_model(architecture, **options))
            yield forms[-1].state_dict()

    with load_errors(f"timm:{name}", _HINT), seeded(0), quiet():
        found = fitting(read(file), chosen, states(), f"timm:{name}")
        forms[-1].load_state_dict(found.state)
    encoder = _encoder(name, forms[-1])
    encoder.notes = found.notes(file)
    return encoder


def _build(name: str, model: str, seed: int = 0, **options: Any) -> Timm:
    """Create the model in timm, with any random weights drawn from `seed`."""
    # Imported as Any, as timm does not declare its public names to type checkers.
    timm: Any = importlib.import_module("timm")

    with load_errors(f"timm:{name}", _HINT), seeded(seed), quiet():
        module = timm.create_model(model, **options)
    return _encoder(name, module)


def _encoder(name: str, module: Any) -> Timm:
    timm: Any = importlib.import_module("timm")

    if not hasattr(module, "forward_intermediates"):
        raise EncoderError(f"timm:{name} gives no intermediate features", expected="forward_intermediates")
    config = timm.data.resolve_model_data_config(module)
    spec = EncoderSpec(
        name=f"timm:{portable(name)}",
        weights=weights_digest(module),
        modality="image",
        preprocess=json.dumps(config, sort_keys=True),
        norm="the model's final norm",
        projection="forward_head, before the classifier",
    )
    return Timm(module, spec, Keyed("image", timm.data.create_transform(**config, is_training=False)))


class Timm(FrozenEncoder):
    """A timm model; takes `image` (B, 3, H, W) float. A transformer's final norm is applied to each layer."""

    def save(self, folder: Path) -> str:
        """Write the model into a new folder; return the name to load it by, relative to what holds it."""
        timm: Any = importlib.import_module("timm")
        timm.models.save_for_hf(self.module, folder, safe_serialization=True)
        return folder.name

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Return tokens (B, T, D) by layer and the classifier's input (B, P), from one forward pass."""
        indices, walk = block_indices(layers), self.module.forward_intermediates
        prefixed = "return_prefix_tokens" in inspect.signature(walk).parameters
        options = {"return_prefix_tokens": True} if prefixed else {}
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            image = self.on_device(inputs)["image"]
            final, maps = walk(image, indices=indices, norm=True, output_fmt="NCHW", **options)
            pooled = self.module.forward_head(final, pre_logits=True)
            pairs = [each if isinstance(each, tuple) else (each, None) for each in maps]
            every = dict(zip(indices, (from_map(*pair) for pair in pairs), strict=True))
        return Encoded(
            tokens={layer: every[layer][0] for layer in layers},
            mask=None,
            pooled=pooled,
            geometry={layer: every[layer][1] for layer in layers},
        )
