"""FAMILY:NAME, and the errors for unknown names."""

import random
import socket

import pytest
import torch
from torch import nn

from featcache.encoders import load
from featcache.encoders._loading import load_errors
from featcache.encoders.base import weights_digest
from featcache.errors import EncoderError
from featcache.randomness import seeded


@pytest.mark.parametrize("model", ["resnet50", "timm:", ":resnet50", ""])
def test_a_model_is_family_and_name(model):
    with pytest.raises(EncoderError, match=r"FAMILY:NAME[\s\S]*hf, open_clip, python, timm"):
        load(model)


def test_an_id_of_the_hub_is_answered_with_its_family():
    with pytest.raises(EncoderError, match=r"hf:openai/clip-vit-base-patch32$"):
        load("openai/clip-vit-base-patch32")


def test_no_network_is_not_blamed_on_the_weights():
    def fails(cause):
        with load_errors("timm:x", "the weights must be timm's"):
            try:
                raise cause
            except Exception as error:
                raise OSError("cannot be found") from error

    with pytest.raises(EncoderError, match="no network"):
        fails(socket.gaierror("Temporary failure in name resolution"))
    with pytest.raises(EncoderError, match="must be timm's"):
        fails(ValueError("shape"))


@pytest.mark.parametrize("family", ["openclip", "tokens", "views", "base", "frozen"])
def test_an_unknown_family_is_refused(family):
    with pytest.raises(EncoderError, match=rf"no encoder is called `{family}`[\s\S]*known: hf, open_clip"):
        load(f"{family}:x")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["0.weight"].view(-1)[0].add_(1e-6),
        lambda state: state.update({"0.weight": state["0.weight"].T}),
        lambda state: state.update({"0.weight": state["0.weight"].bfloat16()}),
        lambda state: state.update({"2.weight": state.pop("0.weight")}),
        lambda state: state["1.running_mean"].add_(1),
    ],
)
def test_the_digest_sees_values_shapes_types_names_and_buffers(change):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert digest_of(state) == weights_digest(module) == digest_of(dict(reversed(state.items())))
    change(state)
    assert digest_of(state) != weights_digest(module)


def digest_of(state):
    class Holder(nn.Module):
        def state_dict(self):
            return state

    return weights_digest(Holder())


def test_seeding_touches_no_other_generator():
    states = torch.get_rng_state(), random.getstate()
    with seeded(5):
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
