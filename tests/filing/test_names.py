"""Names of folders and files, from class names and paths that no file system would take as they are."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.filing.names import file_names, folder_names, safe

AWKWARD = [
    "a/b",
    "a\\b",
    "a:b",
    "..",
    ".",
    "",
    " ",
    "...",
    "Cat",
    "cat",
    "CAT",
    "cat ",
    "con",
    "NUL.txt",
    "🦊, red",
]
AWKWARD += [
    "café",
    unicodedata.normalize("NFD", "café"),
    "x" * 300,
    "x" * 299 + "y",
    "cat (2)",
    "unsure",
    "\0",
    ".git",
]


def test_awkward_classes_each_get_a_folder_of_their_own(tmp_path):
    names = list(folder_names(AWKWARD, taken=["unsure"]).values())
    keys = {unicodedata.normalize("NFC", name.casefold()) for name in names}
    assert len(keys) == len(set(AWKWARD))
    assert "unsure" not in keys
    for name in names:
        (tmp_path / name).mkdir()
        assert (tmp_path / name).parent == tmp_path
    assert len(list(tmp_path.iterdir())) == len(names)
    assert "🦊, red" in names


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=6))
def test_any_classes_each_get_a_name_without_a_path(classes):
    names = list(folder_names(classes).values())
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in names}) == len(classes)
    for name in names:
        assert name
        assert name not in (".", "..")
        assert not set(name) & set('/\\:*?"<>|\0')
        assert name == name.rstrip(". ")
        assert len(name.encode()) < 255


def test_a_file_keeps_its_name_and_its_ending():
    assert file_names(["b/IMG_1.JPG", "IMG_2.JPG"]) == ["IMG_1.JPG", "IMG_2.JPG"]
    assert file_names(["a/1.png", "b/1.png", "b/1.PNG", "a__1.png"]) == [
        "a__1.png",
        "b__1.png",
        "b__1 (2).PNG",
        "a__1 (2).png",
    ]
    assert safe("y" * 300 + ".jpeg").endswith("y.jpeg")
