"""Tiny real models, made here: nothing is downloaded."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "tiny-vit": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "tiny-timm-vit": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
    "tiny-timm-convnext": {"timm_model_name": "test_convnext", "timm_pool": "avg", "image_size": 64},
}


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    """open_clip knows four tiny models by name."""
    folder = tmp_path_factory.mktemp("open_clip")
    for name, vision in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    return TOWERS


@pytest.fixture
def images():
    """Five RGB images of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (64, 64), (90, 33), (32, 32), (48, 70)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture
def batch():
    """Stacks what an encoder's transform makes of samples."""

    def stack(encoder, samples):
        made = [encoder.transform(sample) for sample in samples]
        return {key: torch.stack([each[key] for each in made]) for key in made[0]}

    return stack
