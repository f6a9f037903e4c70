"""open_clip: models against open_clip itself."""

import json
import logging

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from featcache.encoders import load
from featcache.encoders.base import Geometry
from featcache.errors import EncoderError
from featcache.extraction.tokens import check, select

pytestmark = pytest.mark.usefixtures("towers")

GEOMETRIES = {
    "tiny-vit": Geometry(1, (4, 4)),
    "tiny-resnet": Geometry(0, (2, 2)),
    "tiny-timm-vit": Geometry(1, (10, 10)),
    "tiny-timm-convnext": Geometry(0, (2, 2)),
}


@pytest.fixture(params=GEOMETRIES)
def encoder(request):
    return load(f"open_clip:{request.param}/random")


def test_every_kind_of_tower_gives_tokens_and_the_joint_embedding(encoder, images, batch):
    name = encoder.spec.name.removeprefix("open_clip:").removesuffix("/random")
    inputs = batch(encoder, images)
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    assert encoded.geometry == {-1: GEOMETRIES[name]}
    with torch.no_grad():
        torch.testing.assert_close(encoded.pooled, encoder.module.encode_image(inputs["image"]))


def test_layers_can_be_asked_for_in_any_order_and_without_the_last(encoder, images, batch):
    inputs = batch(encoder, images[:2])
    both = encoder.encode(inputs, [-1, -2])
    assert list(both.tokens) == [-1, -2]
    alone = encoder.encode(inputs, [-2])
    torch.testing.assert_close(alone.tokens[-2], both.tokens[-2])
    torch.testing.assert_close(alone.pooled, both.pooled)
    assert both.tokens[-1].shape != both.tokens[-2].shape or not torch.equal(both.tokens[-1], both.tokens[-2])


def test_stored_tokens_of_a_vit_lead_to_its_embedding(images, batch):
    encoder = load("open_clip:tiny-vit/random")
    encoded = encoder.encode(batch(encoder, images), [-1])
    cls = select(encoded, "cls").tokens[-1][:, 0]
    torch.testing.assert_close(cls @ encoder.module.visual.proj, encoded.pooled)
    assert encoder.spec.norm == "ln_post"


def test_an_earlier_layer_is_that_block_through_the_final_norm(images, batch):
    encoder = load("open_clip:tiny-vit/random")
    visual, seen = encoder.module.visual, []
    hook = visual.transformer.resblocks[-2].register_forward_hook(lambda *args: seen.append(args[-1]))
    encoded = encoder.encode(batch(encoder, images), [-2])
    hook.remove()
    torch.testing.assert_close(encoded.tokens[-2], visual.ln_post(seen[0]))


def test_a_resnet_gives_the_map_before_its_attention_pool(images, batch):
    encoder = load("open_clip:tiny-resnet/random")
    inputs = batch(encoder, images)
    feature_map = inputs["image"]
    with torch.no_grad():
        for part in ("stem", "layer1", "layer2", "layer3", "layer4"):
            feature_map = getattr(encoder.module.visual, part)(feature_map)
    tokens = encoder.encode(inputs, [-1]).tokens[-1]
    torch.testing.assert_close(tokens[:, 1], feature_map[:, :, 0, 1])
    torch.testing.assert_close(tokens[:, 2], feature_map[:, :, 1, 0])


def test_the_text_tower_is_open_clips_own():
    encoder = load("open_clip:tiny-vit/random")
    texts = ["a photo of a dog.", "a drawing of a cat."]
    with torch.no_grad():
        expected = encoder.module.encode_text(open_clip.tokenize(texts))
    torch.testing.assert_close(encoder.encode_text(texts), expected)


def test_only_a_trained_text_tower_has_templates(tmp_path):
    encoder = load("open_clip:tiny-vit/random")
    assert encoder.templates == ()
    torch.save(encoder.module.state_dict(), tmp_path / "weights.pt")
    templates = load(f"open_clip:tiny-vit/{tmp_path / 'weights.pt'}").templates
    texts = [template.format("dog") for template in templates]
    assert texts
    assert all("dog" in text and "{" not in text for text in texts)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_is_loaded_back_by_path(tmp_path, images, batch, suffix):
    first = load("open_clip:tiny-vit/random-3")
    path = tmp_path / f"mine.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save({name: value.clone() for name, value in first.module.state_dict().items()}, path)
    second = load(f"open_clip:tiny-vit/{path}")
    assert second.spec.weights == first.spec.weights
    inputs = batch(first, images)
    assert torch.equal(first.encode(inputs, [-1]).tokens[-1], second.encode(inputs, [-1]).tokens[-1])


def test_a_model_folder_is_loaded_by_its_path(tmp_path, towers, images, batch):
    first = load("open_clip:tiny-vit/random")
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": 24, "vision_cfg": towers["tiny-vit"], "text_cfg": text}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(first.module.state_dict(), tmp_path / "open_clip_model.safetensors")
    second = load(f"open_clip:{tmp_path}")
    assert second.spec.weights == first.spec.weights
    assert json.loads(second.spec.preprocess)["std"] == [0.25, 0.25, 0.25]
    inputs = batch(second, images)
    assert not torch.equal(inputs["image"], batch(first, images)["image"])
    assert torch.equal(second.encode(inputs, [-1]).pooled, first.encode(inputs, [-1]).pooled)
    assert torch.equal(second.encode_text(["a cat"]), first.encode_text(["a cat"]))


def test_random_weights_follow_their_seed_and_leave_the_global_generator_and_logging_alone():
    before, handlers = torch.get_rng_state(), list(logging.getLogger().handlers)
    seeds = ["random", "random-0", "random-1"]
    zero, same, one = (load(f"open_clip:tiny-vit/{seed}").spec.weights for seed in seeds)
    assert zero == same != one
    assert torch.equal(before, torch.get_rng_state())
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("open_clip:tiny-vitt/random", ["tiny-vitt/random", "did you mean", "`tiny-vit`"]),
        ("open_clip:ViT-B-32/laion3b", ["ViT-B-32", "laion3b", "laion2b_s34b_b79k", "/random"]),
        ("open_clip:tiny-vit", ["no tag", "no pretrained tags"]),
        ("open_clip:tiny-vit/./absent.pt", ["./absent.pt", "checkpoint that exists"]),
    ],
)
def test_a_wrong_name_is_explained(model, parts):
    with pytest.raises(EncoderError) as error:
        load(model)
    assert all(part in str(error.value) for part in parts)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save(load("open_clip:tiny-timm-vit/random").module.state_dict(), path)
    with pytest.raises(EncoderError, match=r"cannot load open_clip:tiny-vit/.*other\.pt[\s\S]*architecture"):
        load(f"open_clip:tiny-vit/{path}")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "short.pt"
    torch.save(load("open_clip:tiny-vit/random").module.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EncoderError, match=r"cannot load open_clip:tiny-vit/.*short\.pt"):
        load(f"open_clip:tiny-vit/{path}")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"open_clip_config\.json"):
        load(f"open_clip:{tmp_path}")


@pytest.mark.parametrize(("layers", "part"), [([-9], "-9"), ([0], "count from the end"), ([], "count from")])
def test_a_layer_that_is_not_there_is_refused(images, batch, layers, part):
    encoder = load("open_clip:tiny-vit/random")
    with pytest.raises(EncoderError, match=part):
        encoder.encode(batch(encoder, images[:1]), layers)


def test_it_runs_under_the_callers_autocast_and_without_gradients(images, batch):
    encoder = load("open_clip:tiny-vit/random")
    inputs = batch(encoder, images)
    plain = encoder.encode(inputs, [-1])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.encode(inputs, [-1])
    assert plain.tokens[-1].is_inference()
    assert not torch.equal(plain.pooled, mixed.pooled)
    torch.testing.assert_close(plain.pooled, mixed.pooled.float(), atol=0.1, rtol=0.1)
