"""The examples of a user's own encoder compute what they document."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from featcache.encoders import load
from featcache.encoders.base import Geometry
from featcache.extraction.tokens import check

EXAMPLES = Path(__file__).parents[2] / "examples"
SQUEEZENET = EXAMPLES / "squeezenet.py"
FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128)}
FIRES |= {6: (256, 48, 192), 7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}


def random_weights():
    """Arrays with the names and shapes of the published file."""
    shapes = {"conv1": (96, 3, 7, 7), "conv10": (1000, 512, 1, 1)}
    for fire, (width, squeeze, expand) in FIRES.items():
        shapes[f"fire{fire}/squeeze1x1"] = (squeeze, width, 1, 1)
        shapes[f"fire{fire}/expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"fire{fire}/expand3x3"] = (expand, squeeze, 3, 3)
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}|w"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        arrays[f"{name}|b"] = 0.1 * rng.standard_normal(shape[0]).astype(np.float32)
    return arrays


def fire9(arrays, x):
    """SqueezeNet v1.0 as in figure 2 and table 1 of its paper."""

    def conv(x, name, **options):
        weight, bias = (torch.from_numpy(arrays[f"{name}|{kind}"]) for kind in "wb")
        return F.relu(F.conv2d(x, weight, bias, **options))

    x = F.max_pool2d(conv(x, "conv1", stride=2), 3, 2, ceil_mode=True)
    for fire in FIRES:
        x = conv(x, f"fire{fire}/squeeze1x1")
        x = torch.cat([conv(x, f"fire{fire}/expand1x1"), conv(x, f"fire{fire}/expand3x3", padding=1)], dim=1)
        if fire in (4, 8):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    return x


def test_squeezenet_gives_the_map_of_fire9(tmp_path, monkeypatch, images, batch):
    arrays = random_weights()
    np.savez(tmp_path / "weights.npz", **arrays)
    monkeypatch.setenv("SQUEEZENET_NPZ", str(tmp_path / "weights.npz"))
    encoder = load(f"python:{SQUEEZENET}:build")
    inputs = batch(encoder, images[:2])
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    assert encoded.geometry == {-1: Geometry(0, (13, 13))}
    expected = fire9(arrays, inputs["input"]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoded.tokens[-1], expected, atol=1e-3, rtol=1e-4)


def test_squeezenet_reads_blue_green_red_minus_the_mean(tmp_path, monkeypatch):
    np.savez(tmp_path / "weights.npz", **random_weights())
    monkeypatch.setenv("SQUEEZENET_NPZ", str(tmp_path / "weights.npz"))
    transform = load(f"python:{SQUEEZENET}:build").transform
    made = transform(Image.new("RGB", (30, 20), (200, 100, 50)))["input"]
    assert made.shape == (3, 227, 227)
    assert made[:, 100, 100].tolist() == [50 - 104, 100 - 117, 200 - 123]


def test_pixels_are_the_image_itself():
    encoder = load(f"python:{EXAMPLES / 'pixels.py'}:build")
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    inputs = {key: value[None] for key, value in encoder.transform(Image.fromarray(image)).items()}
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    np.testing.assert_allclose(encoded.pooled[0], image.flatten() / 255, rtol=1e-6)
    np.testing.assert_allclose(encoded.tokens[-1][0], image / 255, rtol=1e-6)
