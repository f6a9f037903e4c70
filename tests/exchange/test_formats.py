"""Every format gives the values, ids and labels that were written, exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import featcache as fc

Bring = Callable[..., fc.Cache]


def stored(cache: fc.Cache, array: str, split: str = "train") -> Any:
    found = cache[split].array(array)
    values = found.gather(np.arange(found.shape[0]), 0)
    return torch.from_numpy(values).view(torch.bfloat16) if found.bfloat16 else values


def test_a_format_gives_what_was_written(form: str, tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    """Tokens and pooled, ids and labels; keys and types are found."""
    dtype = "float32" if form == "npz_fortran" else "float16"
    arrays = {
        "tokens": made.tokens(dtype=dtype),
        "pooled": made.pooled(dtype=dtype),
        "ids": made.IDS,
        "labels": made.LABELS,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="zarr")  # texts of fixed width are no part of Zarr 3
        cache = bring(made.FORMATS[form](tmp_path / "mine", arrays))
        assert cache.spec.dtype == dtype
        assert np.array_equal(stored(cache, "tokens"), arrays["tokens"])
        assert np.array_equal(stored(cache, "pooled"), arrays["pooled"])
        assert cache["train"].ids == made.IDS
        assert [cache.classes[label] for label in cache["train"].labels] == made.LABELS
        assert not cache.shapes.mask


@pytest.mark.parametrize("name", ["pt", "safetensors"])
def test_bfloat16_stays_what_it_is(name: str, tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    values = torch.from_numpy(made.pooled()).bfloat16()
    path = tmp_path / f"mine.{name}"
    if name == "pt":
        torch.save({"emb": values}, path)
    else:
        made.save_file({"emb": values}, path)
    cache = bring(path)
    assert cache.spec.dtype == "bfloat16"
    assert torch.equal(stored(cache, "pooled"), values)


def test_pooled_embeddings_alone_are_the_only_token(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, made.pooled())
    cache = bring(path)
    assert (cache.spec.tokens, cache.shapes.layers[0].tokens) == ("pooled", 1)
    assert np.array_equal(stored(cache, "tokens")[:, 0], made.pooled())
    assert np.array_equal(cache["train"].embeddings(), made.pooled())
    assert cache["train"].ids[:2] == ["mine.npy:0", "mine.npy:1"]
    assert cache.classes == ()


def test_float64_is_stored_if_nothing_is_lost(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, made.pooled().astype("float64"))
    assert np.array_equal(bring(path)["train"].embeddings(), made.pooled())
    np.save(path, made.pooled().astype("float64") / 3)
    with pytest.raises(fc.FeatcacheError, match="float64") as error:
        bring(path, overwrite=True)
    assert "mine.npy:0" in str(error.value)
    assert "dtype='float32'" in str(error.value)
    cache = bring(path, overwrite=True, dtype="float32")
    assert np.array_equal(cache["train"].embeddings(), (made.pooled().astype("float64") / 3).astype("f4"))


def test_datasets_on_disk(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    """As the package itself writes them: splits, names of classes, and arrays of two axes."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "emb": datasets.List(datasets.Value("float32"), length=made.DIM),
            "patches": datasets.Array2D((made.TOKENS, made.DIM), "float32"),
            "label": datasets.ClassLabel(names=made.NAMES),
        }
    )
    rows = {"emb": made.pooled(), "patches": made.tokens(), "label": [row % 3 for row in range(made.ROWS)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    path = tmp_path / "saved"
    parts = datasets.DatasetDict({"train": whole, "unsupervised": whole.select(range(4, 9))})
    parts.save_to_disk(path, num_shards={"train": 3, "unsupervised": 1})
    cache = bring(path, tokens="patches", pooled="emb")
    assert cache.classes == tuple(made.NAMES)
    assert np.array_equal(stored(cache, "tokens"), made.tokens())
    assert np.array_equal(cache["unsupervised"].embeddings(), made.pooled()[4:9])
    assert cache["unsupervised"].labels.tolist() == [1, 2, 0, 1, 2]
