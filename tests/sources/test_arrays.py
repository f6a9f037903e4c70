"""HDF5, .npz and .npy: the same names, checks and errors."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest

from featcache.errors import SampleError, SourceError
from featcache.sources import open_source


@pytest.fixture(params=["hdf5", "npz"])
def write(request, make):
    def write_hdf5(name, **arrays):
        return make.hdf5(f"{name}.h5", arrays)

    def write_npz(name, **arrays):
        np.savez(make.path(f"{name}.npz"), **arrays)
        return str(make.root / f"{name}.npz")

    return write_hdf5 if request.param == "hdf5" else write_npz


def images(n=3, start=0):
    return np.arange(start, start + n * 4, dtype=np.uint8).reshape(n, 2, 2)


def test_splits_by_name(write):
    splits = open_source(
        write("set", x_train=images(3), y_train=[0, 1, 2], x_test=images(2, 50), y_test=[[1], [0]])
    )
    assert {name: source.labels.tolist() for name, source in splits.items()} == {
        "train": [0, 1, 2],
        "test": [1, 0],
    }
    assert splits["test"][1].getpixel((0, 0)) == (54, 54, 54)
    assert re.fullmatch(r"set\.\w+:test:1", splits["test"].ids[1])


def test_splits_by_group(make):
    arrays = {"train/images": images(3), "train/label": [0, 1, 2], "val/images": images(1)}
    splits = open_source(make.hdf5("set.h5", arrays))
    assert {name: source.labels.tolist() for name, source in splits.items()} == {
        "train": [0, 1, 2],
        "validation": [-1],
    }


def test_unlabelled(write):
    source = open_source(write("test", data=images()))["test"]
    assert (source.labels.tolist(), source.class_names) == ([-1, -1, -1], ())


def test_the_labels_asked_for(write):
    spec = write("set", x=images(), y=[0, 0, 1], coarse=[2, 2, 2])
    assert open_source(spec)["train"].labels.tolist() == [0, 0, 1]
    assert open_source(spec, label_column="coarse")["train"].labels.tolist() == [2, 2, 2]
    with pytest.raises(SourceError, match=r"(?s)no labels `fine`.*coarse \(3,\)"):
        open_source(spec, label_column="fine")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool"])
def test_pixel_types(write, dtype):
    white = {"uint8": 255, "uint16": 65535, "float32": 1.0, "bool": True}[dtype]
    source = open_source(write("set", x=np.full((1, 2, 2), white, dtype)))["train"]
    assert source[0].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [1]}, r"no images.*labels \(1,\).*called data, image"),
        ({"x": np.zeros((2, 3, 8, 8), np.uint8)}, r"`x`.*images.*\(2, 3, 8, 8\).*channels last"),
        ({"x": np.zeros((2, 8), np.uint8)}, r"`x`.*images.*\(2, 8\).*\(N, H, W\)"),
        ({"x": np.zeros((2, 8, 8), np.int64)}, "`x`.*int64.*astype"),
        ({"x": np.zeros((0, 8, 8), np.uint8)}, "no samples"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": [1]}, r"`y`.*does not fit.*\(1,\).*\(2,\)"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.eye(2)}, r"`y`.*does not fit.*\(2, 2\)"),
        (
            {"x": np.zeros((2, 8, 8), np.uint8), "images": np.zeros((2, 8, 8), np.uint8)},
            "images.*split `train`.*(`x` and `images`|`images` and `x`)",
        ),
        (
            {"x": np.zeros((2, 8, 8), np.uint8), "x_train": np.zeros((2, 8, 8), np.uint8)},
            "images.*split `train`.*`x` and `x_train`",
        ),
        (
            {"x": np.zeros((1, 2, 2), np.uint8), "y": [3], "class_names": [b"a"]},
            "outside the classes.*3 in row 0",
        ),
    ],
)
def test_arrays_that_do_not_fit(write, arrays, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(write("set", **arrays))


def test_floats_out_of_range_fail_by_sample(write):
    source = open_source(write("set", x=np.array([[[0.5]], [[9.0]]])))["train"]
    assert source[0].getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(SampleError, match=r"(?s)out of range.*:1: 9 to 9"):
        source[1]


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.npy"])
def test_not_what_the_suffix_says(make, name):
    with pytest.raises(SourceError, match=f"(?s)cannot be read as.*{name}"):
        open_source(make.file(name, b"something else"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_objects_are_never_unpickled(make, save):
    objects = np.array([{"a": 1}], dtype=object)
    np.save(make.path("a.npy"), objects, allow_pickle=True)
    save(make.path("a.npz"), x=objects)
    save(make.path("b.npz"), x=images(1), y=objects)
    for name in ("a.npy", "a.npz", "b.npz"):
        with pytest.raises(SourceError, match=f"(?s)cannot be read as NumPy.*{name}"):
            open_source(str(make.root / name))


def test_labels_as_bytes(make):
    arrays = {"x": images(), "y": [b"dog", b"cat", b""], "class_names": [b"dog", b"cat"]}
    assert open_source(make.hdf5("a.h5", arrays))["train"].labels.tolist() == [0, 1, -1]


def test_npy_is_mapped_in_any_memory_order(make):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    np.save(make.path("images_test.npy"), np.asfortranarray(pixels))
    np.save(make.path("labels_test.npy"), np.arange(5))
    np.savez(make.path("b.npz"), images=np.asfortranarray(pixels))
    source = open_source(str(make.root / "images_test.npy"))["test"]
    zipped = open_source(str(make.root / "b.npz"))["train"]
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    assert isinstance(source._reader.array(), np.memmap)
    assert isinstance(zipped._reader.array(), np.memmap)
    for row in range(5):
        assert np.array_equal(np.asarray(source[row]), pixels[row])
        assert np.array_equal(np.asarray(zipped[row]), pixels[row])


def test_npy_has_no_label_column(make):
    np.save(make.path("a.npy"), images())
    with pytest.raises(SourceError, match=r"(?s)column.*label_column='y'.*x.npy and y.npy"):
        open_source(str(make.root / "a.npy"), label_column="y")


def test_links_in_hdf5_are_followed(make):
    pixels = np.ones((2, 4, 4, 3), np.uint8)
    path = make.hdf5("a.h5", {"store/p": pixels, "store/l": np.array([0, 1])[:, None, None]})
    with h5py.File(path, "a") as file:
        file["images"], file["labels"] = h5py.SoftLink("/store/p"), h5py.SoftLink("/store/l")
    source = open_source(path)["train"]
    assert source.labels.tolist() == [0, 1]
    assert np.asarray(source[1]).tolist() == pixels[1].tolist()
    lost = make.hdf5("b.h5", {"images": pixels})
    with h5py.File(lost, "a") as file:
        file["labels"] = h5py.SoftLink("/nowhere")
    with pytest.raises(SourceError, match=r"(?s)leads nowhere.*labels"):
        open_source(lost)


def test_the_names_of_an_hdf5_enumeration_are_classes(make):
    path = make.hdf5("set.h5", {"images": images(3)})
    with h5py.File(path, "a") as file:
        kind = h5py.enum_dtype({"owl": 0, "cat": 5}, basetype="i")
        file.create_dataset("labels", data=[0, 5, 0], dtype=kind)
    source = open_source(path)["train"]
    assert [source.class_names[label] for label in source.labels] == ["owl", "cat", "owl"]


def test_no_advice_changes_values(write):
    with pytest.raises(SourceError, match="if all are from 0 to 255"):
        open_source(write("set", images=images().astype(np.int32)))
    with pytest.raises(SourceError, match="complex64") as raised:
        open_source(write("set", images=images().astype(np.complex64)))
    assert "astype" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.h5", "a.npy", "a.npz"])
def test_damage_within_is_a_sentence(make, name):
    arrays = {"images": images(3), "labels": np.arange(3)}
    path = make.path(name)
    if name == "a.h5":
        make.hdf5(name, arrays)
    elif name == "a.npz":
        np.savez(path, **arrays)
    else:
        np.save(path, arrays["images"])
    data = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 8):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            for source in open_source(str(path)).values():
                source[0]
        except (SourceError, SampleError):
            refused += 1
    assert refused > 5
