"""Views of a sample: the evaluation transform, after a seeded weak or strong augmentation.

Weak and strong as in FixMatch (arXiv 2001.07685, section 2.3), with RandAugment (arXiv 1909.13719) and random
erasing (arXiv 1708.04896) from torchvision; for text, random word deletion (arXiv 1901.11196, section 2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featcache.errors import EncoderError
from featcache.randomness import seeded
from featcache.specs import Modality, ViewSpec


@dataclass(frozen=True)
class ViewTransform:
    """Make one view of a sample, ready for the encoder; picklable if the encoder's transform is.

    Random numbers depend only on (seed, sample id, view name), not on the batch, the worker or the order.
    """

    transform: Callable[[Any], dict[str, Tensor]]
    modality: Modality
    options: ViewSpec

    def __call__(self, data: Any, sample_id: str, view: str) -> dict[str, Tensor]:
        """Return the encoder's inputs by name; raises EncoderError for an unknown view."""
        if view == "eval":
            return self.transform(data)
        kind = re.fullmatch(r"(weak|strong)\d+", view)
        if not kind:
            raise EncoderError("unknown view", got=view, expected="eval, weak0, weak1, ..., strong0, ...")
        strong = kind[1] == "strong"
        augment = _image if self.modality == "image" else _text
        with seeded(view_seed(self.options.seed, sample_id, view)):
            augmented = augment(data, self.options, strong)
        inputs = self.transform(augmented)
        if not strong or self.modality == "text":
            return inputs
        with seeded(view_seed(self.options.seed, sample_id, view, "erase")):
            return {name: _erase(value, self.options) for name, value in inputs.items()}


def view_seed(seed: int, *names: str) -> int:
    """Return a 63-bit seed, the BLAKE2b digest of the seed and the names.

    >>> view_seed(0, "a", "weak0") == view_seed(0, "a", "weak0")
    True
    >>> len({view_seed(0, "a", "weak0"), view_seed(1, "a", "weak0"), view_seed(0, "b", "weak0")})
    3
    """
    text = "\0".join([str(seed), *names])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _image(image: Any, options: ViewSpec, strong: bool) -> Any:
    from torchvision.transforms import v2

    # The crop keeps its own size: the encoder's transform resizes, once.
    box = v2.RandomResizedCrop.get_params(image, scale=(options.crop, 1.0), ratio=(3 / 4, 4 / 3))
    image = v2.RandomHorizontalFlip(options.flip)(v2.functional.crop(image, *box))
    return v2.RandAugment(options.num_ops, options.magnitude)(image) if strong else image


def _text(text: str, options: ViewSpec, strong: bool) -> str:
    words = text.split()
    if not words:
        return text
    kept = torch.rand(len(words)) >= min(1.0, options.dropout * (2 if strong else 1))
    if not kept.any():
        kept[torch.randint(len(words), ())] = True
    return " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)


def _erase(value: Tensor, options: ViewSpec) -> Tensor:
    if value.ndim != 3 or not value.is_floating_point():
        return value  # beside the pixels (C, H, W), an image transform may give masks or sizes
    from torchvision.transforms import v2

    erased: Tensor = v2.RandomErasing(options.erase)(value)
    return erased
