"""Embeddings of class names, where the model has a text tower."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from featcache.encoders.base import Encoder


def class_text(encoder: Encoder, class_names: tuple[str, ...]) -> torch.Tensor | None:
    """Return (C, P) float32: by class, the unit-length mean of its unit-length prompts.

    As in CLIP (arXiv 2103.00020, section 3.1.4). None where the model has no text tower.
    """
    prompts = [t.format(name.replace("_", " ")) for name in class_names for t in encoder.templates]
    with torch.inference_mode():
        embedded = encoder.encode_text(prompts) if prompts else None
    if embedded is None:
        return None
    by_class = F.normalize(embedded.float().cpu(), dim=1).reshape(
        len(class_names), len(encoder.templates), -1
    )
    return F.normalize(by_class.mean(1), dim=1)
