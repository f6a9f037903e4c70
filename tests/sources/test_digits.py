"""scikit-learn's digits: the split never changes."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from featcache.errors import SourceError
from featcache.sources import open_source
from featcache.sources.base import digest_samples


def test_every_digit_once_in_a_stratified_split():
    splits = open_source("digits")
    assert {name: len(source) for name, source in splits.items()} == {"train": 1297, "test": 500}
    rows = sorted(int(name.removeprefix("digit-")) for source in splits.values() for name in source.ids)
    assert rows == list(range(1797))
    shares = [np.bincount(source.labels) / len(source) for source in splits.values()]
    assert np.allclose(*shares, atol=0.002)


def test_pixels_and_labels_are_those_of_scikit_learn():
    data = load_digits()
    for source in open_source("digits").values():
        for index in range(0, len(source), 100):
            row = int(source.ids[index].removeprefix("digit-"))
            pixels = np.asarray(source[index])
            assert pixels.shape == (8, 8, 3)
            assert np.abs(pixels[..., 1] / 255 - data.images[row] / 16).max() <= 0.5 / 255 + 1e-12
            assert source.labels[index] == data.target[row]
    assert source.class_names[:3] == ("zero", "one", "two")


def test_the_split_never_changes():
    test_ids = "\n".join(open_source("digits")["test"].ids)
    assert (
        hashlib.sha256(test_ids.encode()).hexdigest()
        == "cff2eb635e89583ad46b3eb65e81bb8a7700d39d9d801c9d2e79ddd00069f8fc"
    )


def test_workers_get_the_same():
    source = open_source("digits")["train"]
    copy = pickle.loads(pickle.dumps(source))
    assert digest_samples(copy) == digest_samples(source) == digest_samples(open_source("digits")["train"])
    assert digest_samples(copy) != digest_samples(open_source("digits")["test"])


def test_no_label_column():
    with pytest.raises(SourceError, match=r"(?s)column.*label_column='parity'"):
        open_source("digits", label_column="parity")
