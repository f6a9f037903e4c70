"""python: a user's own modules, valid and broken."""

import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from featcache.encoders import load
from featcache.encoders.base import Geometry
from featcache.errors import EncoderError
from featcache.extraction.tokens import check

USER = """
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

SIZE = 16

def pixels(image):
    return F.pil_to_tensor(F.resize(image.convert("RGB"), [SIZE, SIZE])).float() / 255

def letters(text):
    ids = torch.zeros(6)
    for at, letter in enumerate(text[:6]):
        ids[at] = ord(letter)
    return {"ids": ids, "mask": ids > 0}

class Map(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 5, 4, stride=4)

class Tokens(Map):
    def forward(self, x):
        return super().forward(x).flatten(2).transpose(1, 2)

class Full(Map):
    def forward(self, x):
        feature_map = super().forward(x)
        patches = feature_map.flatten(2).transpose(1, 2)
        cls = patches.mean(1, keepdim=True)
        last = torch.cat([cls, patches], 1)
        return {"tokens": {-1: last, -2: 2 * last}, "pooled": 3 * cls[:, 0], "prefix": 1, "grid": (4, 4)}

class Text(nn.Module):
    modality = "text"
    def forward(self, ids, mask):
        return {"tokens": torch.stack([ids, -ids], -1), "mask": mask}

class Wrong(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.give = give
    def forward(self, x):
        return self.give

class Own:
    def __init__(self):
        self.spec, self.transform, self.templates = None, letters, ("{}",)
    def to(self, device): pass
    def encode(self, inputs, layers): pass
    def encode_text(self, texts): pass

def feature_map(): return Map(), pixels
def tokens(): return Tokens(), pixels
def full(): return Full(), pixels
def text(): return Text(), letters
def own(): return Own()
def keys(): return Wrong({"features": 1}), pixels
def rank(): return Wrong(torch.zeros(2, 3)), pixels
def strings(): return Wrong("tokens"), pixels
def listed(): return Map(), lambda image: [1]
def number(): return 3
def pair(): return Map(), 3
def fails(): raise RuntimeError("no weights here")
def modality():
    module = Map()
    module.modality = "sound"
    return module, pixels
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return f"python:{path}"


def test_a_feature_map_becomes_tokens_row_by_row(user, images, batch):
    encoder = load(f"{user}:feature_map")
    inputs = batch(encoder, images)
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    expected = encoder.module(inputs["input"])
    torch.testing.assert_close(encoded.tokens[-1][:, 6], expected[:, :, 1, 2])
    torch.testing.assert_close(encoded.pooled, expected.mean(dim=(2, 3)))
    assert encoded.geometry == {-1: Geometry(0, (4, 4))}
    assert not encoder.module.weight.requires_grad
    assert encoder.encode_text(["x"]) is None


def test_plain_tokens_have_no_grid(user, images, batch):
    encoder = load(f"{user}:tokens")
    encoded = encoder.encode(batch(encoder, images), [-1])
    check(encoded)
    assert encoded.geometry == {-1: Geometry(0, None)}
    torch.testing.assert_close(encoded.pooled, encoded.tokens[-1].mean(dim=1))


def test_a_dict_may_say_everything(user, images, batch):
    encoder = load(f"{user}:full")
    encoded = encoder.encode(batch(encoder, images), [-2, -1])
    check(encoded)
    torch.testing.assert_close(encoded.tokens[-2], 2 * encoded.tokens[-1])
    torch.testing.assert_close(encoded.pooled, 3 * encoded.tokens[-1][:, 0])
    assert encoded.geometry == dict.fromkeys([-2, -1], Geometry(1, (4, 4)))


def test_text_takes_the_dict_as_keywords_and_averages_real_tokens(user, batch):
    encoder = load(f"{user}:text")
    encoded = encoder.encode(batch(encoder, ["ab", "abcd"]), [-1])
    check(encoded)
    torch.testing.assert_close(encoded.pooled, torch.tensor([[97.5, -97.5], [98.5, -98.5]]))
    torch.testing.assert_close(encoder.encode_text(["ab", "abcd"]), encoded.pooled)
    assert encoder.spec.modality == "text"


def test_random_weights_are_the_same_each_time(user):
    before = torch.get_rng_state()
    first, second = load(f"{user}:feature_map"), load(f"{user}:feature_map")
    assert first.spec == second.spec
    assert torch.equal(before, torch.get_rng_state())


def test_the_file_is_part_of_the_identity(user, tmp_path):
    first = load(f"{user}:feature_map").spec
    (tmp_path / "mine.py").write_text(USER.replace("/ 255", "/ 128"))
    second = load(f"{user}:feature_map").spec
    assert [name for name, *_ in first.diff(second)] == ["preprocess"]


def test_a_whole_encoder_is_taken_as_it_is_but_its_transform_travels(user):
    encoder = load(f"{user}:own")
    assert type(encoder).__name__ == "Own"
    assert pickle.loads(pickle.dumps(encoder.transform))("ab")["mask"].sum() == 2


def test_the_transform_reaches_a_fresh_process(user, images):
    transform = load(f"{user}:feature_map").transform
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(transform, images[0]).result()
    assert torch.equal(there["input"], transform(images[0])["input"])


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("feature_maps", ["mine.py", "feature_maps", "did you mean `feature_map`"]),
        ("SIZE", ["no function `SIZE`"]),
        ("number", ["int", "(module, transform)"]),
        ("pair", ["'Map', 'int'", "(module, transform)"]),
        ("fails", ["RuntimeError: no weights here"]),
        ("modality", ["sound", "image or text"]),
    ],
)
def test_a_wrong_factory_is_named(user, factory, parts):
    with pytest.raises(EncoderError) as error:
        load(f"{user}:{factory}")
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("keys", ["keys", "features", "pooled"]),
        ("rank", ["(2, 3)", "(B, C, H, W)"]),
        ("strings", ["str", "(B, T, D)"]),
        ("listed", ["list", "a dict of tensors"]),
    ],
)
def test_a_wrong_output_is_named(user, images, batch, factory, parts):
    encoder = load(f"{user}:{factory}")
    with pytest.raises(EncoderError) as error:
        encoder.encode(batch(encoder, images), [-1])
    assert all(part in str(error.value) for part in parts)


def test_a_layer_that_is_not_given_is_refused(user, images, batch):
    encoder = load(f"{user}:full")
    with pytest.raises(EncoderError, match=r"no layer -3[\s\S]*\[-1, -2\]"):
        encoder.encode(batch(encoder, images), [-1, -3])


@pytest.mark.parametrize("text", ["def factory(:", "import absent_package_of_nobody", "1 / 0"])
def test_a_file_that_does_not_run_leaves_nothing_behind(tmp_path, text):
    (tmp_path / "broken.py").write_text(text)
    before = set(sys.modules)
    with pytest.raises(EncoderError, match=r"cannot load python:.*broken\.py:factory"):
        load(f"python:{tmp_path / 'broken.py'}:factory")
    assert not [name for name in set(sys.modules) - before if name.startswith("featcache_user")]


def test_missing_files_and_factories_are_named(tmp_path):
    with pytest.raises(EncoderError, match=r"Python file[\s\S]*absent\.py"):
        load(f"python:{tmp_path / 'absent.py'}:factory")
    with pytest.raises(EncoderError, match=r"factory[\s\S]*python:path/to/file\.py:factory"):
        load("python:mine.py")
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(EncoderError, match=r"ends in \.py"):
        load(f"python:{tmp_path / 'mine.txt'}:factory")


LOOKUP = """
from pathlib import Path
import torch
from torch import nn

class Lookup(nn.Module):
    def forward(self, x):
        return x[:, None]

def named():
    module = Lookup()
    module.files = [Path(__file__).parent / "table.bin"]
    return module, lambda image: torch.zeros(3)

def on_factory():
    return Lookup(), lambda image: torch.zeros(3)

on_factory.files = ["table.bin"]

def silent():
    return Lookup(), lambda image: torch.zeros(3)
"""


@pytest.mark.parametrize("factory", ["named", "on_factory"])
def test_files_that_a_model_reads_are_part_of_its_identity(tmp_path, factory):
    (tmp_path / "lookup.py").write_text(LOOKUP)
    name = f"python:{tmp_path / 'lookup.py'}:{factory}"
    with pytest.raises(EncoderError, match=r"table\.bin"):
        load(name)
    (tmp_path / "table.bin").write_bytes(b"one")
    first = load(name).spec
    assert first == load(name).spec
    (tmp_path / "table.bin").write_bytes(b"two")
    assert [field for field, *_ in first.diff(load(name).spec)] == ["weights"]
    assert load(name).spec.weights_text().startswith("weights ")


def test_a_model_without_weights_says_so(tmp_path, user):
    (tmp_path / "lookup.py").write_text(LOOKUP)
    assert load(f"python:{tmp_path / 'lookup.py'}:silent").spec.weights_text() == "no weights"
    assert load(f"{user}:feature_map").spec.weights_text() != "no weights"
