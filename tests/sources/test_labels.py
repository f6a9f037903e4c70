"""Labels as found in files become class indices."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import SourceError
from featcache.sources._labels import encode

unlabelled = st.sampled_from([None, "", " ", math.nan, -1, "-1", "-1.0"])
names = st.text(st.characters(categories=["L"]), min_size=1, max_size=5).map(
    lambda text: unicodedata.normalize("NFC", text)
)


def encode_columns(columns, class_names=None):
    encoded, known = encode(
        {
            split: ([f"{split}:{row}" for row in range(len(values))], values)
            for split, values in columns.items()
        },
        class_names,
    )
    assert all(labels.dtype == np.int64 for labels in encoded.values())
    return {split: labels.tolist() for split, labels in encoded.items()}, known


@given(st.lists(st.one_of(names, unlabelled)), st.lists(st.one_of(names, unlabelled)))
def test_names_are_numbered_in_sorted_order_over_all_splits(train, test):
    encoded, known = encode_columns({"train": train, "test": test})
    assert list(known) == sorted(
        {value for value in [*train, *test] if isinstance(value, str) and value.isalpha()}
    )
    for found, given_values in ((encoded["train"], train), (encoded["test"], test)):
        for label, value in zip(found, given_values, strict=True):
            assert known[label] == value if label >= 0 else not (isinstance(value, str) and value.isalpha())


@given(
    st.lists(st.one_of(st.integers(0, 50), unlabelled)),
    st.sampled_from([int, float, str, lambda n: f"{n}.0"]),
)
def test_whole_numbers_are_indices_however_they_are_written(values, write):
    written = [write(value) if type(value) is int else value for value in values]
    encoded, known = encode_columns({"train": written})
    assert encoded["train"] == [value if type(value) is int else -1 for value in values]
    assert known == tuple(str(index) for index in range(max([*encoded["train"], -1]) + 1))


@given(st.lists(names, unique=True, min_size=1), st.data())
def test_with_class_names_a_label_is_a_name_or_an_index(classes, data):
    indices = data.draw(st.lists(st.integers(0, len(classes) - 1)))
    assert encode_columns({"train": indices}, classes) == ({"train": indices}, tuple(classes))
    by_name = [classes[index] for index in indices]
    assert encode_columns({"train": by_name}, classes)[0] == {"train": indices}


def test_a_name_that_looks_like_a_number_counts_as_a_name_first():
    assert encode_columns({"train": ["1", "3", 0]}, ["3", "1", "2"])[0] == {"train": [1, 0, 0]}


def test_a_number_is_an_index_even_where_names_are_numbers():
    assert encode_columns({"train": [0, 1, 2]}, ["1", "2", "3"])[0] == {"train": [0, 1, 2]}


def test_numbers_among_names_are_names():
    assert encode_columns({"train": [7, "b", "07"], "test": [7]}) == (
        {"train": [1, 2, 0], "test": [1]},
        ("07", "7", "b"),
    )


def test_leading_zeros_make_names():
    assert encode_columns({"train": ["007", "7", "10"]}) == ({"train": [0, 2, 1]}, ("007", "10", "7"))


def test_space_around_a_name_does_not_count():
    assert encode_columns({"train": [" cat", "cat ", b"cat"]}) == ({"train": [0, 0, 0]}, ("cat",))


def test_two_unicode_forms_of_a_name_are_one_class():
    assert encode_columns({"train": ["cafe\u0301"], "test": ["caf\u00e9"]}) == (
        {"train": [0], "test": [0]},
        ("caf\u00e9",),
    )
    assert encode_columns({"train": ["caf\u00e9"]}, ["bar", "cafe\u0301"])[0] == {"train": [1]}


def test_nothing_labelled_has_no_classes():
    assert encode_columns({"train": [None, ""], "test": []}) == ({"train": [-1, -1], "test": []}, ())


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        (
            [0, 2],
            ["a", "b"],
            r"outside the classes.*got: *2 in row 1 of split `train` \(`train:1`\).*0 to 1.*a, b",
        ),
        ([0, -2], ["a", "b"], r"outside the classes.*got: *-2 in row 1"),
        (["a", "c"], ["a", "b"], r"got: *'c' in row 1"),
        ([3, -5], None, r"got: *-5 in row 1"),
        ([0, 10**12], None, r"got: *1000000000000 in row 1.*99999"),
        ([0.5], None, r"neither a whole number nor a name.*got: *0.5 in row 0.*label_column"),
        ([math.inf], None, r"neither.*inf"),
        ([[1, 2]], None, r"neither.*\[1, 2\]"),
        ([0], ["a", "a"], r"class name occurs twice"),
    ],
)
def test_labels_that_do_not_fit(values, classes, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        encode_columns({"train": values}, classes)
