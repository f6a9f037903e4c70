"""Tiny real models, made here: nothing is downloaded."""

import json

import open_clip
import pytest
import torch

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
def batch():
    """Stack the results of an encoder's transform of samples."""

    def stack(encoder, samples):
        made = [encoder.transform(sample) for sample in samples]
        return {key: torch.stack([each[key] for each in made]) for key in made[0]}

    return stack
