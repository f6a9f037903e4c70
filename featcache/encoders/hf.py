"""Vision and text models of Hugging Face transformers (the extra `hf`).

- `hf:facebook/dinov2-small`: an id on the hub (downloaded).
- `hf:FOLDER`: a folder that `save_pretrained` wrote, with its image processor or tokenizer.
- `hf:NAME@128`: a text model that reads up to 128 tokens; without it the model's own limit, at most 64.

Images: tokens of a transformer or the feature map of a convolutional model; pooled is the joint embedding of
a CLIP-like model, else the trained pooler, else CLS, else the mean. Text: tokens with a mask; pooled as the
sentence-transformers file `1_Pooling/config.json` says, else the mean over the real tokens (arXiv 1908.10084,
section 3).
Layer -1 is the last hidden state; earlier layers are hidden states as they run through the model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from featcache.encoders._loading import block_indices, layer_errors, load_errors, portable, quiet
from featcache.encoders.base import (
    Encoded,
    FrozenEncoder,
    Geometry,
    Inputs,
    Layer,
    from_map,
    masked_mean,
    weights_digest,
)
from featcache.errors import EncoderError, MissingExtra
from featcache.randomness import seeded
from featcache.specs import EncoderSpec

_DEFAULT_LENGTH = 64
_TEXTS_AT_ONCE = 64
_HINT = "an id on the hub, or a folder with config.json, weights, and an image processor or tokenizer"


def load(name: str) -> HfImage | HfText:
    """The model that `name` (see above) means; raises EncoderError, or MissingExtra without transformers."""
    path, length = _split(name)
    own = portable(path) + name.removeprefix(path)
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise EncoderError("no such model folder", got=path, expected=_HINT)
    transformers = _transformers()
    with load_errors(f"hf:{name}", _HINT), seeded(0), silent(transformers):
        # In float32 whatever the checkpoint is in, as everywhere else: `--amp` alone makes it less.
        module, info = transformers.AutoModel.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True
        )
        absent = {key for key in info["missing_keys"] if "pooler" not in key}
        if absent:
            raise EncoderError(f"hf:{name} lacks weights", got=f"none for {sorted(absent)[0]}", hint=_HINT)
        if module.config.is_encoder_decoder:
            module = module.get_encoder()
        if hasattr(module, "get_image_features") or module.main_input_name == "pixel_values":
            if length:
                raise EncoderError("only text models take a length", got=f"hf:{name}", hint=f"hf:{path}")
            processor = transformers.AutoImageProcessor.from_pretrained(path)
            return HfImage(module, own, path, processor, trained_pooler=not info["missing_keys"])
        if module.main_input_name != "input_ids":
            got = f"a model of {module.main_input_name}"
            raise EncoderError("neither images nor text", got=got, expected="pixel_values or input_ids")
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        text = TextTransform(_right_padded(tokenizer), _length(name, module, tokenizer, length))
        return HfText(module, own, text, _pooling(path))


class HfImage(FrozenEncoder):
    """Takes what the image processor gives, `pixel_values` (B, 3, H, W) float among it."""

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
        transformers = _transformers()
        with load_errors(f"the tokenizer of {self.spec.name}", _HINT), silent(transformers):
            return transformers.AutoTokenizer.from_pretrained(self.path)

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Tokens (B, T, D) by layer and the pooled embedding (B, P), in one forward pass."""
        block_indices(layers)
        images = self.on_device(inputs)
        run = self.module.get_image_features if self.joint else self.module
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            out = run(**images, output_hidden_states=True)
            states = {layer: _state(out, layer) for layer in {*layers, -1}}
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
        """(n, P) embeddings in the joint space, not normalised; None for a model of images alone."""
        if not self.joint:
            return None
        length = self.module.config.text_config.max_position_embeddings
        text = TextTransform(self.tokenizer, length)
        parts = []
        with torch.inference_mode():
            for batch in _batches(texts, text):
                parts.append(self.module.get_text_features(**self.on_device(batch)).pooler_output)
        return torch.cat(parts)

    def _with_geometry(self, state: Tensor, size: Sequence[int]) -> Layer:
        if state.ndim == 4:
            return from_map(state)
        config = getattr(self.module.config, "vision_config", self.module.config)
        patch = getattr(config, "patch_size", None)
        if patch is None:
            return state, Geometry(0, None)
        rows, columns = (patch, patch) if isinstance(patch, int) else patch
        grid = (size[0] // rows, size[1] // columns)
        prefix = state.shape[1] - grid[0] * grid[1]
        # Fewer tokens than patches: the model merges patches on the way, and does not say into which grid.
        return state, Geometry(prefix, grid) if prefix >= 0 else Geometry(0, None)

    def _pooled(self, out: Any, last: Tensor, geometry: Geometry) -> Tensor:
        own = getattr(out, "pooler_output", None)
        if own is not None and (self.joint or self.trained_pooler):
            embedding: Tensor = own.flatten(1)
            return embedding
        return last[:, 0] if geometry.prefix else last.mean(dim=1)


class HfText(FrozenEncoder):
    """Takes what the tokenizer gives, `input_ids` and `attention_mask` (B, T) among it."""

    templates = ("{}",)
    transform: TextTransform

    def __init__(self, module: Any, name: str, transform: TextTransform, pooling: str) -> None:
        self.pooling = pooling
        self.prefix = transform.prefix()
        spec = EncoderSpec(
            name=f"hf:{name}",
            weights=weights_digest(module),
            modality="text",
            preprocess=transform.describe(),
            norm="last_hidden_state; earlier layers as they are",
            projection=f"{pooling} of the real tokens" if pooling != "cls" else "first token",
        )
        super().__init__(module, spec, transform)

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Tokens (B, T, D) by layer, zero where the mask (B, T) is False, and the pooled embedding (B, D).

        The model only sees the batch up to its longest text.
        """
        block_indices(layers)
        batch = self.on_device(inputs)
        mask = batch["attention_mask"].bool()
        longest = max(1, int(mask.sum(dim=1).max()))
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            out = self.module(
                **{key: ids[:, :longest] for key, ids in batch.items()}, output_hidden_states=True
            )
            states = {layer: _state(out, layer) for layer in {*layers, -1}}
            real = {layer: state.masked_fill(~mask[:, :longest, None], 0) for layer, state in states.items()}
            pooled = _pool(real[-1], mask[:, :longest], self.pooling)
        rest = mask.shape[1] - longest
        return Encoded(
            tokens={layer: pad(real[layer], (0, 0, 0, rest)) for layer in layers},
            mask=mask,
            pooled=pooled,
            geometry=dict.fromkeys(layers, Geometry(self.prefix, None)),
        )

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(n, D): `pooled` of the texts."""
        return torch.cat([self.encode(batch, [-1]).pooled for batch in _batches(texts, self.transform)])


@dataclass(frozen=True)
class ImageTransform:
    """One image through the model's own image processor."""

    processor: Any

    def __call__(self, image: Any) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.processor(images=image, return_tensors="pt").items()}


@dataclass(frozen=True)
class TextTransform:
    """One text as `length` token ids, cut or padded, with the mask of the real ones."""

    tokenizer: Any
    length: int

    def __call__(self, text: str) -> dict[str, Tensor]:
        ids = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {key: value[0] for key, value in ids.items()}

    def prefix(self) -> int:
        """1 where every text starts with a CLS token, else 0."""
        first, cls = self.tokenizer("")["input_ids"][:1], self.tokenizer.cls_token_id
        return int(cls is not None and first == [cls])

    def describe(self) -> str:
        """The tokenizer's class and vocabulary, and the length, as JSON."""
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode()
        parts = {
            "tokenizer": type(self.tokenizer).__name__,
            "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
            "max_length": self.length,
        }
        return json.dumps(parts, sort_keys=True)


def _split(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+)@([1-9]\d*)", name)
    return (found[1], int(found[2])) if found else (name, None)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise MissingExtra.of("transformers", "hf") from None


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """No progress bars and no advice from transformers while it loads; its settings are put back."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _right_padded(tokenizer: Any) -> Any:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _length(name: str, module: Any, tokenizer: Any, asked: int | None) -> int:
    longest = min(
        tokenizer.model_max_length,
        getattr(module.config, "max_position_embeddings", tokenizer.model_max_length),
    )
    if asked is not None and asked > longest:
        raise EncoderError(
            f"hf:{name} is longer than the model reads", got=asked, expected=f"at most {longest}"
        )
    return asked or min(longest, _DEFAULT_LENGTH)


def _pooling(path: str) -> str:
    """`mean`, `cls` or `max`, from a sentence-transformers file of either vintage where there is one."""
    config = _pooling_config(path)
    old = {key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
           for key, value in config.items() if value is True and key.startswith("pooling_mode_")}  # fmt: skip
    modes = old or {config.get("pooling_mode", "mean")}
    if not modes <= {"mean", "cls", "max"} or len(modes) != 1:
        raise EncoderError(
            "this pooling is not supported", got=", ".join(map(str, modes)), expected="mean, cls or max"
        )
    return str(modes.pop())


def _pooling_config(path: str) -> Mapping[str, Any]:
    file = Path(path) / "1_Pooling" / "config.json"
    if not Path(path).is_dir():
        hub: Any = importlib.import_module("huggingface_hub")
        try:
            file = Path(hub.hf_hub_download(path, "1_Pooling/config.json"))
        except hub.errors.EntryNotFoundError:
            return {}
    config: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return config


def _state(out: Any, layer: int) -> Tensor:
    state: Tensor = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    return state


def _pool(last: Tensor, mask: Tensor, pooling: str) -> Tensor:
    if pooling == "cls":
        return last[:, 0]
    if pooling == "max":
        return last.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    return masked_mean(last, mask)


def _batches(texts: Sequence[str], transform: TextTransform) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        samples = [transform(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
        yield {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
