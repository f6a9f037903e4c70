"""Text models of transformers, with the pooling that sentence-transformers describes."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from featcache.encoders._hf_library import copy_model, hidden_state
from featcache.encoders._loading import block_indices, layer_errors
from featcache.encoders.base import Encoded, FrozenEncoder, Geometry, Inputs, masked_mean, weights_digest
from featcache.errors import EncoderError
from featcache.specs import EncoderSpec

_TEXTS_AT_ONCE = 64


class HfText(FrozenEncoder):
    """A text model; its inputs are those of the tokenizer, with `input_ids` and `attention_mask` (B, T)."""

    templates = ("{}",)
    transform: TextTransform

    def __init__(self, module: Any, name: str, path: str, transform: TextTransform, pooling: str) -> None:
        self.path, self.pooling = path, pooling
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

    def save(self, folder: Path) -> str:
        """Copy the model's files into a new folder; return the name to load it by, with its length."""
        copy_model(self.path, folder)
        _, at, length = self.spec.name.partition("@")
        return folder.name + at + length

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Return tokens (B, T, D) by layer, zero where the mask (B, T) is False, and pooled (B, D).

        The model runs on the batch cut to its longest text.
        """
        block_indices(layers)
        batch = self.on_device(inputs)
        mask = batch["attention_mask"].bool()
        # While it is traced, there is no longest text.
        cut = not torch.compiler.is_compiling()
        longest = max(1, int(mask.sum(dim=1).max())) if cut else mask.shape[1]
        with torch.inference_mode(), layer_errors(self.spec.name, layers):
            out = self.module(
                **{key: ids[:, :longest] for key, ids in batch.items()}, output_hidden_states=True
            )
            states = {layer: hidden_state(out, layer) for layer in {*layers, -1}}
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
        """Return `pooled` of the texts, (n, D)."""
        return torch.cat([self.encode(batch, [-1]).pooled for batch in batches(texts, self.transform)])


@dataclass(frozen=True)
class TextTransform:
    """Tokenize one text to `length` ids, cut or padded, with the mask of the real ones."""

    tokenizer: Any
    length: int

    def __call__(self, text: str) -> dict[str, Tensor]:
        ids = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {key: value[0] for key, value in ids.items()}

    def prefix(self) -> int:
        """Return 1 if every text starts with a CLS token, else 0."""
        first, cls = self.tokenizer("")["input_ids"][:1], self.tokenizer.cls_token_id
        return int(cls is not None and first == [cls])

    def describe(self) -> str:
        """Return the tokenizer's class, the digest of its vocabulary, and the length, as JSON."""
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode()
        parts = {
            "tokenizer": type(self.tokenizer).__name__,
            "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
            "max_length": self.length,
        }
        return json.dumps(parts, sort_keys=True)


def pooling_of(path: str) -> str:
    """Return `mean`, `cls` or `max`, from a sentence-transformers file (old or new format), else `mean`."""
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
    """Read `1_Pooling/config.json` of a folder or hub id; return an empty mapping if there is none."""
    file = Path(path) / "1_Pooling" / "config.json"
    if not Path(path).is_dir():
        hub: Any = importlib.import_module("huggingface_hub")
        try:
            file = Path(hub.hf_hub_download(path, "1_Pooling/config.json"))
        except hub.errors.EntryNotFoundError:
            return {}
    config: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return config


def _pool(last: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return pooled (B, D) of the last tokens (B, T, D) under their mask (B, T)."""
    if pooling == "cls":
        return last[:, 0]
    if pooling == "max":
        return last.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    return masked_mean(last, mask)


def batches(texts: Sequence[str], transform: TextTransform) -> Iterator[dict[str, Tensor]]:
    """Yield the stacked inputs of up to 64 texts at a time."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        samples = [transform(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
        yield {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
