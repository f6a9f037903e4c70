"""hf: models against transformers itself."""

import json
import pickle
import shutil
import string
import sys

import pytest
import torch
import transformers

from featcache.encoders import hf, load
from featcache.encoders.base import Geometry
from featcache.errors import EncoderError, MissingExtra
from featcache.extraction.tokens import check, select

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
TEXTS = ["a cat sat on the mat", "dog", "", "the dog and the cat and the mat"]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    save(transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)), folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["a", "cat", "sat", "on", "the", "mat", "dog", "and"],
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=40, **SMALL)
    save(transformers.BertModel(config), folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    letters = [*string.ascii_lowercase, *(f"{each}</w>" for each in string.ascii_lowercase)]
    words = {word: at for at, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=20)
    tokenizer.save_pretrained(folder)
    text = {**SMALL, "vocab_size": len(words), "max_position_embeddings": 20, "eos_token_id": len(words) - 1}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    save(transformers.CLIPModel(config), folder)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def save(model, folder):
    with hf.silent(transformers):
        model.save_pretrained(folder)


def reference(folder):
    with hf.silent(transformers):
        return transformers.AutoModel.from_pretrained(folder).eval()


def test_a_vision_transformers_states_and_pooler(vit, images, batch):
    encoder = load(f"hf:{vit}")
    inputs = batch(encoder, images)
    encoded = encoder.encode(inputs, [-1, -2])
    check(encoded)
    with torch.no_grad():
        out = reference(vit)(**inputs, output_hidden_states=True)
    torch.testing.assert_close(encoded.tokens[-1], out.last_hidden_state)
    torch.testing.assert_close(encoded.tokens[-2], out.hidden_states[-2])
    torch.testing.assert_close(encoded.pooled, out.pooler_output)
    assert encoded.geometry == dict.fromkeys([-1, -2], Geometry(1, (4, 4)))


def test_an_untrained_pooler_is_not_used(vit, tmp_path, images, batch):
    model = transformers.ViTModel(transformers.ViTConfig.from_pretrained(vit), add_pooling_layer=False)
    save(model, tmp_path)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path)
    encoder = load(f"hf:{tmp_path}")
    encoded = encoder.encode(batch(encoder, images), [-1])
    assert torch.equal(encoded.pooled, select(encoded, "cls").tokens[-1][:, 0])
    assert encoder.spec.projection == "CLS or mean"


def test_a_convolutional_model_gives_its_map(tmp_path, images, batch):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    save(transformers.ResNetModel(config), tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load(f"hf:{tmp_path}")
    encoded = encoder.encode(batch(encoder, images), [-1])
    check(encoded)
    assert encoded.geometry[-1] == Geometry(0, (4, 4))
    torch.testing.assert_close(encoded.pooled, encoded.tokens[-1].mean(dim=1))


def test_a_text_models_states_mask_and_mean(bert, batch):
    encoder = load(f"hf:{bert}@16")
    inputs = batch(encoder, TEXTS)
    encoded = encoder.encode(inputs, [-1, -2])
    check(encoded)
    assert encoded.tokens[-1].shape == (4, 16, 32)
    assert encoded.mask.sum(dim=1).tolist() == [len(text.split()) + 2 for text in TEXTS]
    model, tokenizer = reference(bert), transformers.AutoTokenizer.from_pretrained(bert)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        count = out.last_hidden_state.shape[1]
        torch.testing.assert_close(encoded.tokens[-1][row, :count], out.last_hidden_state[0])
        torch.testing.assert_close(encoded.tokens[-2][row, :count], out.hidden_states[-2][0])
        torch.testing.assert_close(encoded.pooled[row], out.last_hidden_state[0].mean(dim=0))
        assert not encoded.tokens[-1][row, count:].any()
    torch.testing.assert_close(encoder.encode_text(TEXTS), encoded.pooled)


@pytest.mark.parametrize(
    "config",
    ['{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', '{"pooling_mode": "cls"}'],
)
def test_pooling_follows_the_sentence_transformers_file(bert, batch, config):
    (bert / "1_Pooling").mkdir(exist_ok=True)
    (bert / "1_Pooling" / "config.json").write_text(config)
    encoder = load(f"hf:{bert}")
    encoded = encoder.encode(batch(encoder, TEXTS), [-1])
    (bert / "1_Pooling" / "config.json").unlink()
    assert torch.equal(encoded.pooled, encoded.tokens[-1][:, 0])
    assert encoder.spec.projection == "first token"


def test_an_unknown_pooling_is_refused(bert):
    (bert / "1_Pooling").mkdir(exist_ok=True)
    (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(EncoderError, match=r"lasttoken[\s\S]*mean, cls or max"):
        load(f"hf:{bert}")
    (bert / "1_Pooling" / "config.json").unlink()


def test_the_length_is_the_models_own_at_most_64_and_part_of_the_identity(bert):
    whole, short = load(f"hf:{bert}"), load(f"hf:{bert}@8")
    assert whole.transform("cat")["input_ids"].shape == (40,)
    assert short.transform(" ".join(["cat"] * 30))["attention_mask"].tolist() == [1] * 8
    assert whole.spec.preprocess != short.spec.preprocess
    again = pickle.loads(pickle.dumps(short.transform))
    assert torch.equal(again("a dog")["input_ids"], short.transform("a dog")["input_ids"])
    with pytest.raises(EncoderError, match=r"41[\s\S]*at most 40"):
        load(f"hf:{bert}@41")


def test_a_joint_model_has_both_towers(clip, images, batch):
    encoder = load(f"hf:{clip}")
    inputs = batch(encoder, images)
    encoded = encoder.encode(inputs, [-1])
    check(encoded)
    model, tokenizer = reference(clip), transformers.AutoTokenizer.from_pretrained(clip)
    texts = ["a photo of a dog.", "cat"]
    with torch.no_grad():
        out = model(**inputs, **tokenizer(texts, padding=True, return_tensors="pt"))
    normalise = torch.nn.functional.normalize
    torch.testing.assert_close(normalise(encoded.pooled), out.image_embeds)
    torch.testing.assert_close(normalise(encoder.encode_text(texts)), out.text_embeds)
    assert encoded.geometry[-1] == Geometry(1, (4, 4))


def test_loading_leaves_the_generator_and_the_settings_of_transformers_alone(bert, capfd):
    log = transformers.utils.logging
    before, verbosity, bars = torch.get_rng_state(), log.get_verbosity(), log.is_progress_bar_enabled()
    load(f"hf:{bert}")
    assert torch.equal(before, torch.get_rng_state())
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == (verbosity, bars)
    assert capfd.readouterr() == ("", "")


def test_errors_name_what_is_missing(vit, bert, tmp_path, monkeypatch):
    with pytest.raises(EncoderError, match=r"model folder[\s\S]*absent"):
        load(f"hf:{tmp_path / 'absent'}")
    with pytest.raises(EncoderError, match="cannot load hf:"):
        load(f"hf:{tmp_path}")
    with pytest.raises(EncoderError, match=r"length[\s\S]*@32"):
        load(f"hf:{vit}@32")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers[\s\S]*featcache\[hf\]"):
        hf.load(str(bert))


def test_weights_that_are_not_there_are_refused(bert, tmp_path):
    config = transformers.BertConfig.from_pretrained(bert)
    model = transformers.BertModel(config)
    state = {name: value for name, value in model.state_dict().items() if "layer.1" not in name}
    with hf.silent(transformers):
        model.save_pretrained(tmp_path, state_dict=state)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"lacks weights[\s\S]*layer\.1"):
        load(f"hf:{tmp_path}")


def test_a_checkpoint_in_half_precision_computes_in_float32(vit, tmp_path, images, batch):
    transformers.AutoModel.from_pretrained(vit, dtype=torch.bfloat16).save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path)
    encoder = load(f"hf:{tmp_path}")
    assert {parameter.dtype for parameter in encoder.module.parameters()} == {torch.float32}
    assert encoder.encode(batch(encoder, images), [-1]).pooled.dtype == torch.float32


def test_an_adapter_is_never_left_out_silently(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(EncoderError, match="adapter"):
        load(f"hf:{tmp_path / 'model'}")


def test_a_masked_autoencoder_sees_every_patch_in_its_place(vit, tmp_path, images, batch):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTMAEConfig(image_size=32, patch_size=8, **sizes)
    save(transformers.ViTMAEModel(config), tmp_path)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path)
    encoder = load(f"hf:{tmp_path}")
    whole, alone = (encoder.encode(batch(encoder, some), [-1]) for some in (images, images[2:3]))
    assert whole.tokens[-1].shape[1] == 17
    assert whole.geometry[-1] == (1, (4, 4))
    torch.testing.assert_close(whole.tokens[-1][2:3], alone.tokens[-1])


def test_code_in_a_model_folder_is_never_run_or_asked_for(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": auto_map}))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(EncoderError):
        load(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_heads_and_other_files_of_weights_that_are_left_out_are_named(vit, tmp_path):
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=3, **SMALL)
    save(transformers.ViTForImageClassification(config), tmp_path)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path)
    (tmp_path / "model_ema.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    heads, files = load(f"hf:{tmp_path}").notes
    assert heads.endswith("classifier")
    assert files.endswith("model_ema.safetensors")
    assert load(f"hf:{vit}").notes == ()
