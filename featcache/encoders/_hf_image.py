"""Vision models of transformers, with the text tower of CLIP-like ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featcache.encoders._hf_library import copy_model, hidden_state, import_transformers, silent
from featcache.encoders._hf_text import TextTransform, batches
from featcache.encoders._loading import block_indices, layer_errors, load_errors
from featcache.encoders.base import (
    Encoded,
    FrozenEncoder,
    Geometry,
    Inputs,
    Layer,
    from_map,
    weights_digest,
)
from featcache.specs import EncoderSpec


class HfImage(FrozenEncoder):
    """A vision model; its inputs are those of the image processor, with `pixel_values` (B, 3, H, W)."""

    def __init__(self, module: Any, name: str, path: str, processor: Any, trained_pooler: bool) -> None:
        self.joint, self.trained_pooler, self.path = (
            hasattr(module, "get_image_features"),
            trained_pooler,
            path,
        )
        spec = EncoderSpec(
            name=f"hf:{name}",
            weights=weights_digest(module),
            modality="image",
            preprocess=json.dumps(json.loads(processor.to_json_string()), sort_keys=True),
            norm="last_hidden_state; earlier layers as they are",
            projection="joint embedding" if self.joint else "pooler" if trained_pooler else "CLS or mean",
        )
        super().__init__(module, spec, ImageTransform(processor))
        if self.joint:
            self.templates = ("a photo of a {}.",)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower, read on first use."""
        transformers = import_transformers()
        with (
            load_errors(
                f"the tokenizer of {self.spec.name}",
                "a model with a text tower needs its tokenizer beside it",
            ),
            silent(transformers),
        ):
            return transformers.AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)

    def save(self, folder: Path) -> str:
        """Copy the model's files into a new folder; return the name to load it by."""
        copy_model(self.path, folder)
        return folder.name

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Return tokens (B, T, D) by layer and the pooled embedding (B, P), from one forward pass."""
        block_indices(layers)
        images = self.on_device(inputs)
        run = self.module.get_image_features if self.joint else self.module
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            out = run(**images, **self._unmasked(images["pixel_values"]), output_hidden_states=True)
            states = {layer: hidden_state(out, layer) for layer in {*layers, -1}}
            size = images["pixel_values"].shape[-2:]
            every = {layer: self._with_geometry(state, size) for layer, state in states.items()}
            pooled = self._pooled(out, *every[-1])
        return Encoded(
            tokens={layer: every[layer][0] for layer in layers},
            mask=None,
            pooled=pooled,
            geometry={layer: every[layer][1] for layer in layers},
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Return (n, P) embeddings in the joint space, not normalised; None without a text tower."""
        if not self.joint:
            return None
        length = self.module.config.text_config.max_position_embeddings
        text = TextTransform(self.tokenizer, length)
        parts = []
        with torch.inference_mode():
            for batch in batches(texts, text):
                parts.append(self.module.get_text_features(**self.on_device(batch)).pooler_output)
        return torch.cat(parts)

    def _unmasked(self, images: Tensor) -> dict[str, Tensor]:
        """Return what keeps a masked autoencoder (ViTMAE) from shuffling its patches at random."""
        config = self.module.config
        if not hasattr(config, "mask_ratio") or not hasattr(config, "patch_size"):
            return {}
        rows, columns = (size // config.patch_size for size in images.shape[-2:])
        order = torch.arange(rows * columns, device=images.device, dtype=torch.float32)
        return {"noise": order.expand(len(images), -1)}

    def _with_geometry(self, state: Tensor, size: Sequence[int]) -> Layer:
        """Return a hidden state as tokens with their positions; `size` is (H, W) of the images."""
        if state.ndim == 4:
            return from_map(state)
        config = getattr(self.module.config, "vision_config", self.module.config)
        patch = getattr(config, "patch_size", None)
        if patch is None:
            return state, Geometry(0, None)
        rows, columns = (patch, patch) if isinstance(patch, int) else patch
        grid = (size[0] // rows, size[1] // columns)
        prefix = state.shape[1] - grid[0] * grid[1]
        # With fewer tokens than patches, the model merges patches into a grid that its config does not give.
        return state, Geometry(prefix, grid) if prefix >= 0 else Geometry(0, None)

    def _pooled(self, out: Any, last: Tensor, geometry: Geometry) -> Tensor:
        """Return the joint embedding, else the trained pooler, else CLS, else the mean of the tokens."""
        own = getattr(out, "pooler_output", None)
        if own is not None and (self.joint or self.trained_pooler):
            embedding: Tensor = own.flatten(1)
            return embedding
        return last[:, 0] if geometry.prefix else last.mean(dim=1)


@dataclass(frozen=True)
class ImageTransform:
    """Preprocess one image with the model's own image processor."""

    processor: Any

    def __call__(self, image: Any) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.processor(images=image, return_tensors="pt").items()}
