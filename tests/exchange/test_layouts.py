"""How files become samples: shards, splits, bags of patches, ids and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import featcache as fc

Bring = Callable[..., fc.Cache]


def tokens_of(cache: fc.Cache, split: str = "train") -> Any:
    found = cache[split]
    return found.array("tokens").gather(np.arange(found.rows), 0)


def mask_of(cache: fc.Cache) -> Any:
    return cache["train"].array("token_mask").gather(np.arange(cache["train"].rows), 0)


def write_bags(folder: Path, made: ModuleType, lengths: list[int], *, first_axis: bool = False) -> list[Any]:
    """One file for each slide, as CLAM (n, D) and TRIDENT (1, n, D) write them."""
    folder.mkdir(parents=True)
    found = [made.tokens(1, "float16", count=length)[0] for length in lengths]
    for number, features in enumerate(found):
        with h5py.File(folder / f"slide{number}.h5", "w") as file:
            file["features"] = features[None] if first_axis else features
            file["coords"] = np.zeros((len(features), 2), "int64")
    return found


@pytest.mark.parametrize("first_axis", [False, True])
def test_a_file_for_each_slide_is_a_bag_of_patches(
    first_axis: bool, tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    bags = write_bags(tmp_path / "h5_files", made, [3, 5, 1], first_axis=first_axis)
    cache = bring(tmp_path / "h5_files")
    assert cache["train"].ids == ["slide0", "slide1", "slide2"]
    assert mask_of(cache).sum(1).tolist() == [3, 5, 1]
    for row, bag in enumerate(bags):
        assert np.array_equal(tokens_of(cache)[row][mask_of(cache)[row]], bag)
        mean = bag.mean(0, dtype="float64").astype("float32").astype("float16")
        assert np.array_equal(cache["train"].embeddings()[row], mean.astype("float32"))
    assert not tokens_of(cache)[~mask_of(cache)].any()


def test_long_bags_are_thinned_evenly(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    bags = write_bags(tmp_path / "bags", made, [9, 2])
    cache = bring(tmp_path / "bags", max_tokens=3)
    assert np.array_equal(tokens_of(cache)[0], bags[0][[0, 3, 6]])
    assert mask_of(cache).sum(1).tolist() == [3, 2]
    again = fc.import_embeddings(tmp_path / "bags", tmp_path / "all.zarr", progress=False)
    assert again.shapes.layers[0].tokens == 9


def test_an_empty_bag_is_a_failed_row(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    write_bags(tmp_path / "bags", made, [3, 0])
    split = bring(tmp_path / "bags")["train"]
    assert split.status[:, 0].tolist() == [1, 2]
    assert list(split.failures()) == [1]


def test_matrices_are_bags_where_tokens_are_asked(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    """CLAM's `pt_files`: a tensor (n, D) for each slide, which could as well be shards."""
    for number, length in enumerate([2, 4]):
        torch.save(torch.from_numpy(made.tokens(1, count=length)[0]), tmp_path / f"slide{number}.pt")
    assert bring(tmp_path, tokens="array")["train"].rows == 2
    assert bring(tmp_path, overwrite=True)["train"].rows == 6


def test_several_files_are_shards_in_order(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, rows in enumerate([slice(0, 11), slice(11, 30)]):
        np.save(folder / f"part-{number:03}.npy", made.pooled()[rows])
    cache = bring(folder)
    assert np.array_equal(cache["train"].embeddings(), made.pooled())
    assert cache["train"].ids[10:12] == ["part-000.npy:10", "part-001.npy:0"]


def test_ragged_tokens_and_a_mask_mean_the_same(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    lengths = np.arange(made.ROWS) % made.TOKENS + 1
    padded, mask = made.tokens(), np.arange(made.TOKENS) < lengths[:, None]
    padded[~mask] = np.nan  # padding may hold anything
    np.savez(tmp_path / "padded.npz", tokens=padded, attention_mask=mask.astype("int64"))
    lists = [torch.from_numpy(made.tokens()[row, :length]) for row, length in enumerate(lengths)]
    torch.save({"tokens": lists}, tmp_path / "lists.pt")
    table = pa.table({"tokens": [tokens.tolist() for tokens in lists]})
    types = pa.schema({"tokens": pa.list_(pa.list_(pa.float32()))})
    pq.write_table(table.cast(types), tmp_path / "lists.parquet", row_group_size=7)
    for name in ("padded.npz", "lists.pt", "lists.parquet"):
        cache = bring(tmp_path / name, overwrite=True)
        assert np.array_equal(mask_of(cache), mask)
        assert np.array_equal(tokens_of(cache)[mask], made.tokens()[mask])
        assert not tokens_of(cache)[~mask].any()


def by_folder(path: Path, made: ModuleType) -> Path:
    for name, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        (path / name).mkdir(parents=True)
        np.save(path / name / "pooled.npy", made.pooled()[rows])
        np.save(path / name / "labels.npy", np.array(made.LABELS[rows]))
    return path


def by_file(path: Path, made: ModuleType) -> Path:
    path.mkdir()
    for name, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        made.hdf5(path / f"set_{name}", {"emb": made.pooled()[rows], "label": made.LABELS[rows]})
    return path


def by_key(path: Path, made: ModuleType) -> Path:
    values, labels = made.pooled(), np.array(made.LABELS)
    arrays = {"x_train": values[:20], "y_train": labels[:20], "x_test": values[20:], "y_test": labels[20:]}
    return Path(made.npz(path, arrays))


def by_group(path: Path, made: ModuleType) -> Path:
    values, labels = made.pooled(), made.LABELS
    arrays = {f"{split}/features": values[rows] for split, rows in SPLITS.items()}
    return Path(made.hdf5(path, arrays | {f"{split}/label": labels[rows] for split, rows in SPLITS.items()}))


def by_column(path: Path, made: ModuleType) -> Path:
    """Rows of both splits in turn."""
    order = np.argsort(np.arange(made.ROWS) % 2, kind="stable")
    back = np.argsort(order)
    columns = {
        "emb": made.pooled()[np.r_[0:20, 20:30]][back],
        "class": [made.LABELS[row] for row in back],
        "split": np.array(["train"] * 20 + ["test"] * 10)[back].tolist(),
    }
    return Path(made.parquet(path, columns))


SPLITS = {"train": slice(0, 20), "test": slice(20, 30)}


@pytest.mark.parametrize("layout", [by_folder, by_file, by_key, by_group, by_column])
def test_a_split_is_in_the_name_of_a_folder_a_file_an_array_or_in_a_column(
    layout: Any, tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    cache = bring(layout(tmp_path / "mine", made))
    assert set(cache) == {"train", "test"}
    for name, rows in SPLITS.items():
        order = np.lexsort(made.pooled()[rows].T)
        found = np.lexsort(cache[name].embeddings().T)
        assert np.array_equal(cache[name].embeddings()[found], made.pooled()[rows][order])
        labels = [cache.classes[label] for label in cache[name].labels[found]]
        assert labels == [made.LABELS[rows][row] for row in order]


def test_an_array_alone_brings_those_beside_it(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    path = made.npy_folder(tmp_path / "mine", {"emb": made.pooled(), "ids": made.IDS, "y": made.LABELS})
    cache = bring(path / "emb.npy")
    assert cache["train"].ids == made.IDS
    assert len(cache.classes) == 3


def test_links_of_hdf5_lead_to_arrays(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    made.hdf5(tmp_path / "far", {"deep/emb": made.pooled()})
    with h5py.File(tmp_path / "near.h5", "w") as file:
        file["emb"] = h5py.ExternalLink("far.h5", "/deep/emb")
        file["annotation/class"] = made.LABELS
        file["label"] = h5py.SoftLink("/annotation/class")
        file["loop"] = h5py.SoftLink("/")
    cache = bring(tmp_path / "near.h5", pooled="emb", labels="label")
    assert np.array_equal(cache["train"].embeddings(), made.pooled())
    assert len(cache.classes) == 3


def test_what_is_named_wins_over_what_is_usual(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    arrays = {"pooled": made.pooled(), "mine": made.pooled() + 1, "label": made.LABELS, "coarse": [0, 1] * 15}
    path = made.hdf5(tmp_path / "mine", arrays | {"part": ["a"] * 10 + ["b"] * 20, "key": made.IDS})
    cache = bring(path, pooled="mine", labels="coarse", split="part", ids="key")
    assert np.array_equal(cache["b"].embeddings(), made.pooled()[10:] + 1)
    assert cache["a"].ids == made.IDS[:10]
    assert cache.classes == ("0", "1")


def test_the_split_of_a_bag_is_in_its_folder_and_not_in_its_name(
    tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    for folder in ("train", "test"):
        write_bags(tmp_path / "bags" / folder, made, [2, 3])
    (tmp_path / "bags" / "train" / "slide0.h5").rename(tmp_path / "bags" / "train" / "val-7.h5")
    cache = bring(tmp_path / "bags")
    assert {split: cache[split].ids for split in cache} == {
        "train": ["train/slide1", "train/val-7"],
        "test": ["test/slide0", "test/slide1"],
    }
