"""Frozen foundation models, one family per file: `FAMILY:NAME` on the command line, `load` in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache import plugins
from featcache.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from featcache.encoders.base import Encoder

__all__ = ["load"]


def load(model: str) -> Encoder:
    """The frozen encoder that `model` names, on the CPU, in evaluation mode.

    `model` is `FAMILY:NAME`, where the family is a file of this folder (or an entry point of another package)
    whose module docstring says what NAME may be. Nothing is downloaded unless NAME is a pretrained tag or a
    hub id, and the global random state is left as it was.

    Raises EncoderError for an unknown family or name, a missing file, or weights that do not fit the model.
    """
    family, colon, name = model.partition(":")
    if not (family and colon and name):
        raise EncoderError(
            "a model is FAMILY:NAME",
            got=repr(model),
            expected="a family out of " + ", ".join(plugins.names("encoders")),
            hint="for example open_clip:ViT-B-32/laion2b_s34b_b79k",
        )
    try:
        module = plugins.find("encoders", family)
    except ConfigError as error:
        raise EncoderError(error.what, hint=error.hint) from None
    encoder: Encoder = module.load(name)
    return encoder
