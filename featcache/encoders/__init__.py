"""Frozen foundation models, one family per file. A model is called `FAMILY:NAME`; `load` returns it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featcache import plugins
from featcache.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from featcache.encoders.base import Encoder

__all__ = ["load"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""What looks like ORGANISATION/MODEL of the Hugging Face hub."""


def load(model: str) -> Encoder:
    """Return the frozen encoder called `model`, on the CPU, in evaluation mode.

    `model` is `FAMILY:NAME`. The family is a file of this folder or an entry point of another package; its
    module docstring lists the possible names. Only a pretrained tag or a hub id is downloaded. The global
    random state does not change.

    Raise EncoderError for an unknown family or name, a missing file, or weights that do not fit the model.
    """
    family, colon, name = model.partition(":")
    if not (family and colon and name):
        example = f"hf:{model}" if _HUB_ID.fullmatch(model) else "open_clip:ViT-B-32/laion2b_s34b_b79k"
        raise EncoderError(
            "the model is not of the form FAMILY:NAME",
            got=repr(model),
            expected=f"a family out of {', '.join(plugins.names('encoders'))}",
            hint=f"for example {example}",
        )
    try:
        module = plugins.find("encoders", family)
    except ConfigError as error:
        raise EncoderError(error.what, hint=error.hint) from None
    encoder: Encoder = module.load(name)
    return encoder
