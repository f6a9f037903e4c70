"""Bring your own encoder: SqueezeNet v1.0 (arXiv 1602.07360), pretrained on ImageNet, from a file of weights.

    export SQUEEZENET_NPZ=squeezenet_v1.0_imagenet.npz
    featcache extract IMAGES --model python:examples/squeezenet.py:build --out CACHE.zarr

The file holds the Caffe weights as `<layer>|w` and `<layer>|b`. The last feature map, fire9, becomes 13x13
tokens of 512 dims; pooled is their mean.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import squeezenet1_0
from torchvision.transforms import v2

FIRES = {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12}
"""Where fire2 to fire9 stand in torchvision's `features`, which counts activations and pooling too."""
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}


def build():
    """The feature map and its transform; the weights are where SQUEEZENET_NPZ says, or beside this file."""
    beside = Path(__file__).with_name("squeezenet_v1.0_imagenet.npz")
    return classifier(os.environ.get("SQUEEZENET_NPZ", beside)).features, transform


def classifier(npz: str | os.PathLike[str]) -> nn.Module:
    """The whole network: BGR images (B, 3, 227, 227) to ImageNet logits (B, 1000)."""
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in FIRES.items():
        names |= {f"fire{fire}/{ours}": f"features.{index}.{theirs}" for ours, theirs in PARTS.items()}
    with np.load(npz) as arrays:
        weights = {
            f"{theirs}.weight": torch.from_numpy(arrays[f"{ours}|w"]) for ours, theirs in names.items()
        }
        biases = {f"{theirs}.bias": torch.from_numpy(arrays[f"{ours}|b"]) for ours, theirs in names.items()}
    model = squeezenet1_0()
    model.load_state_dict(weights | biases)
    return model.eval()


def transform(image: Image.Image) -> Tensor:
    """One image as BGR in 0 to 255, minus the mean of ImageNet: (3, 227, 227) float32."""
    pixels = v2.functional.pil_to_tensor(image.convert("RGB"))
    resized = v2.functional.resize(pixels, [227, 227], antialias=True)
    return resized.flip(0).float() - torch.tensor([104.0, 117.0, 123.0])[:, None, None]
