"""Views are seeded by sample and name, and nothing else."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from featcache.encoders.base import Keyed
from featcache.errors import EncoderError
from featcache.extraction.view_transform import ViewTransform

VIEWS = ("eval", "weak0", "weak1", "strong0", "strong1")
WORDS = [f"word{at}" for at in range(40)]


@dataclass(frozen=True)
class Options:
    flip: float = 0.5
    crop: float = 0.6
    magnitude: int = 9
    num_ops: int = 2
    erase: float = 0.25
    dropout: float = 0.1
    seed: int = 0


def to_tensor(image):
    return v2.functional.pil_to_tensor(v2.functional.resize(image, [24, 24])).float()


def same(text):
    return text


@pytest.fixture
def view():
    return ViewTransform(Keyed("image", to_tensor), "image", Options())


@pytest.fixture
def words():
    return ViewTransform(same, "text", Options())


def draw(view, images, order):
    return {(at, name): view(images[at], f"id{at}", name)["image"] for at, name in order}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_eval_is_the_transform(view, images):
    assert torch.equal(view(images[0], "a", "eval")["image"], to_tensor(images[0]))


def test_views_do_not_depend_on_order_threads_pickling_or_the_global_generator(view, images):
    order = [(at, name) for at in range(len(images)) for name in VIEWS]
    first = draw(view, images, order)
    torch.manual_seed(99)
    assert equal(draw(view, images, order[::-1]), first)
    assert equal(draw(pickle.loads(pickle.dumps(view)), images, order), first)
    with ThreadPoolExecutor(8) as pool:
        threaded = pool.map(lambda key: view(images[key[0]], f"id{key[0]}", key[1])["image"], order)
        assert equal(dict(zip(order, threaded, strict=True)), first)


def test_the_global_generator_is_left_alone(view, images):
    before = torch.get_rng_state()
    view(images[0], "a", "strong0")
    assert torch.equal(before, torch.get_rng_state())


def test_views_differ_by_name_sample_and_seed(view, images):
    other = replace(view, options=Options(seed=1))
    drawn = [
        *(view(images[0], "a", name)["image"] for name in VIEWS),
        view(images[0], "b", "weak0")["image"],
        other(images[0], "a", "weak0")["image"],
        other(images[0], "a", "strong0")["image"],
    ]
    assert len({each.numpy().tobytes() for each in drawn}) == len(drawn)


def test_without_augmentation_a_weak_view_is_the_square_image_itself(view, images):
    still = replace(view, options=Options(flip=0.0, crop=1.0))
    assert torch.equal(still(images[1], "a", "weak0")["image"], to_tensor(images[1]))
    mirrored = replace(view, options=Options(flip=1.0, crop=1.0))
    flipped = to_tensor(v2.functional.hflip(images[1]))
    assert torch.equal(mirrored(images[1], "a", "weak0")["image"], flipped)


def test_a_crop_is_a_part_of_the_image_of_the_size_asked_for(images):
    cropped = ViewTransform(Keyed("size", lambda image: torch.tensor(image.size)), "image", Options(crop=0.5))
    sizes = torch.stack([cropped(images[1], str(at), "weak0")["size"] for at in range(40)])
    areas = sizes.prod(dim=1) / 64**2
    assert areas.min() >= 0.45
    assert areas.max() <= 1
    assert len(areas.unique()) > 10


def test_strong_adds_randaugment_and_erasing_to_the_pixels_only(images):
    def pixels(image):
        return {"image": to_tensor(image) + 1, "size": torch.tensor(image.size)}

    plain = Options(flip=0.0, crop=1.0, num_ops=0, erase=0.0)
    calm = ViewTransform(pixels, "image", plain)
    assert torch.equal(calm(images[1], "a", "strong0")["image"], to_tensor(images[1]) + 1)
    erased = replace(calm, options=replace(plain, erase=1.0))(images[1], "a", "strong0")
    assert (erased["image"] == 0).any()
    assert erased["size"].tolist() == [64, 64]
    augmented = replace(calm, options=replace(plain, num_ops=2, magnitude=20))
    assert not torch.equal(augmented(images[1], "a", "strong0")["image"], to_tensor(images[1]) + 1)
    assert torch.equal(augmented(images[1], "a", "weak0")["image"], to_tensor(images[1]) + 1)


@settings(deadline=None, max_examples=50)
@given(text=st.text(), dropout=st.floats(0, 1), seed=st.integers(0, 5), name=st.sampled_from(VIEWS[1:]))
def test_words_are_dropped_in_order_and_never_all(text, dropout, seed, name):
    view = ViewTransform(same, "text", Options(dropout=dropout, seed=seed))
    left, whole = view(text, "a", name).split(), iter(text.split())
    assert all(word in whole for word in left)
    assert bool(left) == bool(text.split())


def test_strong_text_views_drop_twice_as_much(words):
    text = " ".join(WORDS)
    lost = {
        kind: sum(40 - len(words(text, str(at), kind).split()) for at in range(200)) / 8000
        for kind in ("weak0", "strong0")
    }
    assert lost["weak0"] == pytest.approx(0.1, abs=0.02)
    assert lost["strong0"] == pytest.approx(0.2, abs=0.02)
    assert words(text, "a", "weak0") == words(text, "a", "weak0") != words(text, "a", "weak1")
    assert words(text, "a", "eval") == text


@pytest.mark.parametrize("name", ["weak", "medium0", "strong-1", "EVAL", ""])
def test_an_unknown_view_is_refused(view, images, name):
    with pytest.raises(EncoderError, match="unknown view"):
        view(images[0], "a", name)
