"""timm: models against timm itself."""

import json
import pickle

import pytest
import timm
import torch

from featcache.encoders import load
from featcache.encoders.base import Geometry
from featcache.errors import EncoderError
from featcache.extraction.tokens import check

GRIDS = {
    "test_vit": (10, 10),
    "test_vit3": (10, 10),
    "test_vit4": (10, 10),
    "test_convnext": (5, 5),
    "test_resnet": (5, 5),
    "test_efficientnet": (5, 5),
}


@pytest.fixture(params=GRIDS)
def name(request):
    return request.param


def test_tokens_and_pooled_agree_with_timms_own_forward(name, tmp_path, images, batch):
    model = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    encoder = load(f"timm:{name}/{tmp_path / 'mine.pth'}")
    inputs = batch(encoder, images)
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    assert encoded.geometry == {-1: Geometry(getattr(model, "num_prefix_tokens", 0), GRIDS[name])}
    with torch.no_grad():
        features, logits = model.forward_features(inputs["image"]), model(inputs["image"])
        torch.testing.assert_close(model.get_classifier()(encoded.pooled), logits)
    if features.ndim == 4:
        features = features.flatten(2).transpose(1, 2)
    if name != "test_efficientnet":  # there, one more convolution stands before the head
        torch.testing.assert_close(encoded.tokens[-1], features)


def test_layers_differ_and_come_from_one_pass(name, images, batch):
    encoder = load(f"timm:{name}/random")
    inputs = batch(encoder, images[:2])
    both, alone = encoder.encode(inputs, [-1, -2]), encoder.encode(inputs, [-2])
    assert torch.equal(both.tokens[-2], alone.tokens[-2])
    assert torch.equal(both.pooled, alone.pooled)
    last, earlier = both.tokens[-1], both.tokens[-2]
    assert last.shape != earlier.shape or not torch.equal(last, earlier)


def test_an_earlier_layer_is_that_block_through_the_final_norm(images, batch):
    encoder, seen = load("timm:test_vit/random"), []
    hook = encoder.module.blocks[-2].register_forward_hook(lambda *args: seen.append(args[-1]))
    encoded = encoder.encode(batch(encoder, images), [-2])
    hook.remove()
    torch.testing.assert_close(encoded.tokens[-2], encoder.module.norm(seen[0]))


def test_the_transform_is_timms_and_travels(images):
    encoder = load("timm:test_vit/random")
    config = timm.data.resolve_model_data_config(encoder.module)
    expected = timm.data.create_transform(**config, is_training=False)(images[0])
    assert torch.equal(encoder.transform(images[0])["image"], expected)
    again = pickle.loads(pickle.dumps(encoder.transform))
    assert torch.equal(again(images[0])["image"], expected)
    assert json.loads(encoder.spec.preprocess)["mean"] == list(config["mean"])


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    seeds = ["random", "random-0", "random-1"]
    zero, same, one = (load(f"timm:test_vit/{seed}").spec.weights for seed in seeds)
    assert zero == same != one
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_frozen_and_has_no_text_tower():
    encoder = load("timm:test_vit/random")
    assert not encoder.module.training
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    assert encoder.encode_text(["a cat"]) is None
    assert encoder.spec.name == "timm:test_vit/random"


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("timm:test_vitt/random", ["test_vitt", "did you mean", "`test_vit`", "timm.list_models()"]),
        ("timm:test_vit.r999_in1k", ["r999_in1k", "test_vit.r160_in1k"]),
        ("timm:test_vit/./absent.pth", ["./absent.pth", "test_vit.TAG"]),
        ("timm:test_vit/", ["nothing after the slash"]),
    ],
)
def test_a_wrong_name_is_explained(model, parts):
    with pytest.raises(EncoderError) as error:
        load(model)
    assert all(part in str(error.value) for part in parts)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(EncoderError, match=r"cannot load timm:test_vit/.*other\.pth"):
        load(f"timm:test_vit/{tmp_path / 'other.pth'}")


def test_a_layer_that_is_not_there_is_refused(images, batch):
    encoder = load("timm:test_vit/random")
    with pytest.raises(EncoderError, match=r"cannot give layers \[-99\]"):
        encoder.encode(batch(encoder, images[:1]), [-99])
