"""Vision and text models of Hugging Face transformers (the extra `hf`).

- `hf:facebook/dinov2-small`: an id on the hub (downloaded).
- `hf:FOLDER`: a folder written by `save_pretrained`, with its image processor or tokenizer.
- `hf:NAME@128`: a text model that reads up to 128 tokens; by default the model's own limit, at most 64.

Images: the tokens of a transformer, or the feature map of a convolutional model. pooled is the joint
embedding of a CLIP-like model, else the trained pooler, else CLS, else the mean.
Text: tokens with a mask. pooled follows the sentence-transformers file `1_Pooling/config.json`; without it,
it is the mean over the real tokens (arXiv 1908.10084, section 3).
Layer -1 is the last hidden state; earlier layers are the hidden states without a further norm.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featcache.encoders._hf_image import HfImage
from featcache.encoders._hf_library import import_transformers, silent
from featcache.encoders._hf_text import HfText, TextTransform, pooling_of
from featcache.encoders._loading import load_errors, portable
from featcache.errors import EncoderError
from featcache.randomness import seeded

_DEFAULT_LENGTH = 64
_FIRST = ("model.safetensors", "pytorch_model.bin")
"""What transformers reads, if there is no index of several files."""
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}
_HINT = "an id on the hub, or a folder with config.json, weights, and an image processor or tokenizer"


def load(name: str) -> HfImage | HfText:
    """Return the model called `name`, see the module's docstring.

    Raise EncoderError if it cannot be loaded, and MissingExtra if transformers is not installed.
    """
    path, length = _split(name)
    own = portable(path) + name.removeprefix(path)
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise EncoderError("there is no such model folder", got=path, expected=_HINT)
    _refuse_adapter(path)
    transformers = import_transformers()
    with load_errors(f"hf:{name}", _HINT), seeded(0), silent(transformers):
        # In float32 for every checkpoint: only `amp` lowers the precision.
        module, info = transformers.AutoModel.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
        if hasattr(module.config, "mask_ratio"):
            module.config.mask_ratio = 0.0  # patches are masked for pretraining only
        notes = _left_out(path, info)
        absent = {key for key in info["missing_keys"] if "pooler" not in key}
        if absent:
            raise EncoderError(f"hf:{name} lacks weights", got=f"none for {sorted(absent)[0]}", hint=_HINT)
        if module.config.is_encoder_decoder:
            module = module.get_encoder()
        if hasattr(module, "get_image_features") or module.main_input_name == "pixel_values":
            if length:
                raise EncoderError("only text models have a length", got=f"hf:{name}", hint=f"hf:{path}")
            processor = transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
            image = HfImage(module, own, path, processor, trained_pooler=not info["missing_keys"])
            image.notes = notes
            return image
        if module.main_input_name != "input_ids":
            got = f"a model of {module.main_input_name}"
            raise EncoderError(
                "the input of the model is not supported", got=got, expected="pixel_values or input_ids"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        text = TextTransform(_right_padded(tokenizer), _length(name, module, tokenizer, length))
        encoder = HfText(module, own, path, text, pooling_of(path))
        encoder.notes = notes
        return encoder


def _refuse_adapter(path: str) -> None:
    """Raise EncoderError for an adapter beside the weights, which transformers leaves out without PEFT."""
    if (Path(path) / "adapter_config.json").is_file() and importlib.util.find_spec("peft") is None:
        raise EncoderError(
            f"an adapter lies in {path}, which would be left out",
            got="adapter_config.json, and no package peft",
            hint="merge it into the weights (merge_and_unload of peft), or move it away",
        )


def _left_out(path: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which weights are not used: those of heads and decoders, and other files of the folder."""
    heads = sorted({key.partition(".")[0] for key in info["unexpected_keys"]})
    files = sorted(file.name for file in Path(path).glob("*") if file.suffix in _WEIGHTS)
    used = next((name for name in _FIRST if name in files), None)
    others = [name for name in files if used and name != used]
    found = (("weights that the features do not need", heads), ("other files of weights", others))
    return tuple(f"{path}: {what} are left out: {', '.join(names)}" for what, names in found if names)


def _split(name: str) -> tuple[str, int | None]:
    """Return the path or id in `NAME@LENGTH`, and the length if there is one."""
    found = re.fullmatch(r"(.+)@([1-9]\d*)", name)
    return (found[1], int(found[2])) if found else (name, None)


def _right_padded(tokenizer: Any) -> Any:
    """Make the tokenizer pad on the right, with its end token if it has no padding token."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _length(name: str, module: Any, tokenizer: Any, asked: int | None) -> int:
    """Return the number of tokens to read; raise EncoderError if the model reads fewer than asked for."""
    longest = min(
        tokenizer.model_max_length,
        getattr(module.config, "max_position_embeddings", tokenizer.model_max_length),
    )
    if asked is not None and asked > longest:
        raise EncoderError(
            f"hf:{name} is longer than the model reads", got=asked, expected=f"at most {longest}"
        )
    return asked or min(longest, _DEFAULT_LENGTH)
