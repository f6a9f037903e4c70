"""A sealed file shows every flipped bit, those of its seal among them."""

from __future__ import annotations

import torch
from safetensors.torch import save

from featcache.seal import OPEN, is_whole, seal, sealed_json


def test_every_flipped_bit_is_seen() -> None:
    tensors = save({"a": torch.ones(2)}, {"notes": f'{{"seal": "{OPEN}"}}'})
    for whole in (sealed_json({"step": 7, "class_names": ["seal"]}), seal(tensors)):
        assert is_whole(whole)
        for place in range(len(whole)):
            for bit in range(8):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << bit
                assert is_whole(bytes(flipped)) is False, (place, bit)


def test_a_class_called_seal_is_no_seal() -> None:
    assert is_whole(b'{"class_names": ["seal", "otter"], "per_class": {"seal": 0.5}}') is None
