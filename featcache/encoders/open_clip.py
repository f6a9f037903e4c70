"""CLIP-like models of open_clip, with their text tower.

- `open_clip:ViT-B-32/laion2b_s34b_b79k`: a pretrained tag (downloaded).
- `open_clip:ViT-B-32/./mine.pt` or `open_clip:ViT-B-32//absolute/mine.safetensors`: a checkpoint on disk. Of
  several sets of weights, such as `state_dict` and `ema`, the average is used, or the one of `mine.pt#SET`.
- `open_clip:ViT-B-32/random` or `/random-7`: random weights from seed 0 or 7, as a control.
- `open_clip:FOLDER`: a folder with `open_clip_config.json`, weights, and optionally its own `bpe.txt.gz`.
- `open_clip:glyph-clip`: the small model of printed characters that comes with featcache (data/README.md).
- `open_clip:hf-hub:ORG/REPO`: a repository with these files on the Hugging Face hub (downloaded).

Tokens are CLS and patches, or the feature map of a convolutional tower. pooled is the joint embedding, not
normalised.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor

from featcache.encoders._checkpoint import fitting, read, split_choice
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

GLYPH_CLIP = Path(__file__).with_name("glyph-clip")
_LOCAL, _CONFIG, _MERGES = "local-dir:", "open_clip_config.json", "bpe.txt.gz"
_TEXTS_AT_ONCE = 64
_HINT = "the weights must be open_clip's, for the same architecture"


def load(name: str) -> OpenClip:
    """Return the model called `name`, see the module's docstring.

    Raise EncoderError if there is no such model, or if the weights do not fit it.
    """
    if name.startswith("hf-hub:"):
        return _build(name, name, require_pretrained=True)
    folder = GLYPH_CLIP if name == GLYPH_CLIP.name else Path(name)
    if folder.is_dir():
        if not (folder / _CONFIG).is_file():
            raise EncoderError(
                "the folder does not hold an open_clip model",
                got=name,
                expected=f"{_CONFIG} in it",
            )
        return _build(name, f"{_LOCAL}{folder}", require_pretrained=True)
    return _load_named(name)


def _load_named(name: str) -> OpenClip:
    """Load `ARCHITECTURE/TAG`, where the tag is pretrained, a checkpoint, or random."""
    import open_clip

    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        hint = nearest(architecture, open_clip.list_models(), "open_clip.list_models()")
        raise EncoderError("no open_clip model or folder has this name", got=name, hint=hint)
    seed = random_seed(tag)
    if seed is not None:
        encoder = _build(name, architecture, seed=seed, pretrained_text=False)
        encoder.templates = ()  # class names mean nothing to a random text tower
        return encoder
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    file, chosen = split_choice(tag)
    if tag not in tags and Path(file).is_file():
        return _from_checkpoint(name, architecture, file, chosen)
    if tag not in tags:
        raise EncoderError(
            f"no weights for open_clip's {architecture}",
            got=tag or "no tag",
            expected=", ".join(tags) or "no pretrained tags for this model",
            hint=f"or a checkpoint that exists, as {architecture}//path/to/it.pt, or {architecture}/random",
        )
    return _build(name, architecture, pretrained=tag, require_pretrained=True)


def _from_checkpoint(name: str, architecture: str, file: str, chosen: str | None) -> OpenClip:
    """Create the model with the weights of a file; open_clip converts those of other projects."""
    import open_clip

    with load_errors(f"open_clip:{name}", _HINT), seeded(0), quiet():
        made = open_clip.create_model_and_transforms(architecture, pretrained_text=False)
    try:
        with load_errors(f"open_clip:{name}", _HINT):
            found = fitting(read(file), chosen, [made[0].state_dict()], f"open_clip:{name}")
    except EncoderError as misfit:
        if chosen is None:
            with suppress(EncoderError):
                return _build(name, architecture, pretrained=file, require_pretrained=True)
        raise misfit
    made[0].load_state_dict(found.state)
    encoder = _encoder(name, architecture, made)
    encoder.notes = found.notes(file)
    return encoder


def _build(name: str, model: str, seed: int = 0, **options: Any) -> OpenClip:
    """Create the model in open_clip, with any random weights drawn from `seed`."""
    import open_clip

    with load_errors(f"open_clip:{name}", _HINT), seeded(seed), quiet():
        made = open_clip.create_model_and_transforms(model, **options)
    return _encoder(name, model, made)


def _encoder(name: str, model: str, made: tuple[Any, Any, Any]) -> OpenClip:
    import open_clip

    module, _, transform = made
    visual = module.visual
    # An attention pooler comes before the norm, and changes the width; tokens then cannot be normed.
    normed = getattr(visual, "attn_pool", None) is None and not hasattr(visual, "attnpool")
    spec = EncoderSpec(
        name=f"open_clip:{portable(name)}",
        weights=weights_digest(module),
        modality="image",
        preprocess=json.dumps(open_clip.get_model_preprocess_cfg(module), sort_keys=True),
        norm=("trunk norm" if hasattr(visual, "trunk") else "ln_post") if normed else "none",
        projection="encode_image, not normalised",
    )
    return OpenClip(module, spec, Keyed("image", transform), model, normed)


class OpenClip(FrozenEncoder):
    """A CLIP-like model; takes `image` (B, 3, H, W) float. Every layer gets the final norm, if any."""

    def __init__(self, module: Any, spec: EncoderSpec, transform: Keyed, model: str, normed: bool) -> None:
        import open_clip

        super().__init__(module, spec, transform)
        self.model, self.normed = model, normed
        self.templates = (
            "a photo of a {}.",
            *(fill("{}") for fill in open_clip.SIMPLE_IMAGENET_TEMPLATES),
        )
        trunk = getattr(module.visual, "trunk", None)
        self.prefixed = trunk is None or _has_prefix_option(trunk)

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer for this model; some are downloaded on first use."""
        import open_clip

        with load_errors(f"the tokenizer of {self.spec.name}", "it may have to be downloaded once"), quiet():
            merges = Path(self.model.removeprefix(_LOCAL)) / _MERGES
            own = self.model.startswith(_LOCAL) and merges.is_file()
            return open_clip.get_tokenizer(self.model, **({"bpe_path": str(merges)} if own else {}))

    def save(self, folder: Path) -> str:
        """Write the model into a new folder; return the name to load it by, relative to what holds it."""
        import open_clip

        if self.model.startswith(_LOCAL):
            shutil.copytree(self.model.removeprefix(_LOCAL), folder)
            return folder.name
        folder.mkdir()
        config = {
            "model_cfg": open_clip.get_model_config(self.model),
            "preprocess_cfg": open_clip.get_model_preprocess_cfg(self.module),
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2))
        save_model(self.module, str(folder / "open_clip_model.safetensors"))
        return folder.name

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Return tokens (B, T, D) by layer and the joint embedding (B, P), from one forward pass."""
        indices = block_indices(layers)
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            out = self.module.forward_intermediates(
                image=self.on_device(inputs)["image"],
                image_indices=indices,
                normalize=False,
                normalize_intermediates=self.normed,
                image_output_extra_tokens=self.prefixed,
            )
            maps = out["image_intermediates"]
            prefixes = out.get("image_intermediates_prefix", [None] * len(maps))
            every = dict(zip(indices, map(from_map, maps, prefixes), strict=True))
        return Encoded(
            tokens={layer: every[layer][0] for layer in layers},
            mask=None,
            pooled=out["image_features"],
            geometry={layer: every[layer][1] for layer in layers},
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return (n, P) text embeddings in the space of `pooled`, not normalised."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                ids = self.tokenizer(list(texts[start : start + _TEXTS_AT_ONCE])).to(self.device)
                parts.append(self.module.encode_text(ids, normalize=False))
        return torch.cat(parts)


def _has_prefix_option(trunk: Any) -> bool:
    return "return_prefix_tokens" in inspect.signature(trunk.forward_intermediates).parameters
