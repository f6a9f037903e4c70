"""Importing again, after a kill, or other embeddings; and what fits the runs of an import."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import featcache as fc
from featcache.batch import Features
from featcache.exchange import columns, features
from featcache.exchange.options import ImportOptions
from featcache.nn.projector import Projector, ProjectorOptions
from featcache.progress import silent
from featcache.stages.import_ import run_import

Bring = Callable[..., fc.Cache]
ROWS = 9000
"""In three shards."""


def files(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def written(place: Path, out: Path, **options: Any) -> dict[str, int]:
    return run_import(place, out, ImportOptions.of(options)).written


def test_the_same_again_writes_nothing(tmp_path: Path, made: ModuleType) -> None:
    path, out = made.npz(tmp_path / "mine", {"emb": made.pooled()}), tmp_path / "c.zarr"
    assert written(path, out) == {"train": made.ROWS}
    before = files(out)
    assert written(path, out) == {"train": 0}
    assert files(out) == before


def test_other_embeddings_are_refused(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    bring(made.npz(tmp_path / "mine", {"emb": made.pooled()}), model="m")
    with pytest.raises(fc.FeatcacheError, match="another `content`"):
        bring(made.npz(tmp_path / "mine", {"emb": made.pooled() + 1}), model="m")
    with pytest.raises(fc.FeatcacheError, match=r"another `encoder.name`"):
        bring(made.npz(tmp_path / "mine", {"emb": made.pooled()}), model="n")


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((ROWS, 2), "float32"))

    @contextmanager
    def stops(title: str, total: int, unit: str = "samples") -> Iterator[Any]:
        def update(rows: int) -> None:
            seen.append(rows)
            if not title.startswith("checking") and sum(seen) > 5000:
                raise KeyboardInterrupt

        seen: list[int] = []
        yield SimpleNamespace(update=update)

    path, out = tmp_path / "mine.npy", tmp_path / "c.zarr"
    with pytest.raises(KeyboardInterrupt):
        run_import(path, out, ImportOptions(), progress=stops)
    rest = written(path, out)["train"]
    assert 0 < rest < ROWS
    fc.import_embeddings(path, tmp_path / "whole.zarr", progress=False)
    assert files(out) == files(tmp_path / "whole.zarr")


def test_a_split_can_be_added(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    """The user who adds it to a cache says that the model is the same."""
    bring(made.npz(tmp_path / "train", {"emb": made.pooled()}))
    cache = bring(made.npz(tmp_path / "test", {"emb": made.pooled(9)}))
    assert set(cache) == {"train", "test"}


def test_a_split_of_an_unnamed_model_does_not_join_a_named_one(
    tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    bring(made.npz(tmp_path / "train", {"emb": made.pooled()}), model="mine")
    with pytest.raises(fc.FeatcacheError, match="model='mine'"):
        bring(made.npz(tmp_path / "test", {"emb": made.pooled(9)}))


@pytest.mark.parametrize("form", ["npz_compressed", "hdf5"])
def test_memory_is_flat(form: str, tmp_path: Path, made: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_PIECE", 1 << 20)
    monkeypatch.setattr(features, "_PIECE", 1 << 20)
    values = np.random.default_rng(0).standard_normal((8_000, 256), "float32")
    path = made.FORMATS[form](tmp_path / "mine", {"emb": values})
    del values
    run_import(
        path, tmp_path / "first.zarr", ImportOptions(), progress=silent
    )  # what it imports is not counted
    tracemalloc.start()
    run_import(path, tmp_path / "c.zarr", ImportOptions(), progress=silent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, made: ModuleType) -> Path:
    """Pooled embeddings of two classes that a training can tell apart, imported under a name and without."""
    folder = tmp_path_factory.mktemp("digits")
    label = np.arange(60) % 2
    values = np.random.default_rng(0).standard_normal((60, 8), "float32")
    values[:, 0] += 12 * label - 6
    path = made.hdf5(folder / "mine", {"emb": values[:40], "label": [made.NAMES[n] for n in label[:40]]})
    new = made.hdf5(folder / "new", {"emb": values[:7], "label": [made.NAMES[n] for n in label[:7]]})
    test = made.hdf5(folder / "test", {"emb": values[40:], "label": [made.NAMES[n] for n in label[40:]]})
    for place in (path, test):
        fc.import_embeddings(place, folder / "named.zarr", model="mine", progress=False)
    fc.import_embeddings(new, folder / "new-named.zarr", model="mine", progress=False)
    fc.import_embeddings(new, folder / "new-unnamed.zarr", progress=False)
    return folder


@pytest.mark.parametrize("objective", ["linear", "twinturbo"])
@pytest.mark.usefixtures("one_thread")
def test_a_run_predicts_other_imports_of_the_same_model(objective: str, digits: Path, tmp_path: Path) -> None:
    """No image and no model is needed, for a probe and for a projector alike."""
    fc.train(
        digits / "named.zarr",
        objective,
        out=tmp_path / "run",
        labels_per_class=4,
        options={"optim.steps": 3},
        progress=False,
    )
    found = fc.predict(tmp_path / "run", digits / "new-named.zarr", tmp_path / "p.csv")
    assert (found["train"].rows, found["train"].accuracy) == (7, 1.0)
    with pytest.raises(fc.FeatcacheError, match=r"featcache import .*new.h5 .*model='mine'"):
        fc.predict(tmp_path / "run", digits / "new.h5", tmp_path / "q.csv")
    with pytest.raises(fc.FeatcacheError, match="unknown model") as error:
        fc.predict(tmp_path / "run", digits / "new-unnamed.zarr", tmp_path / "q.csv")
    assert "import" in str(error.value.hint)
    assert "model='mine'" in str(error.value.hint)


def test_a_projector_starts_as_the_identity_on_imported_embeddings(digits: Path) -> None:
    split = fc.Cache.open(digits / "named.zarr")["train"]
    batch = next(iter(split.batches(40)))["eval"]
    projector = Projector(ProjectorOptions(), 8, 8, torch.Generator().manual_seed(0))
    assert isinstance(batch, Features)
    assert torch.equal(projector(batch), torch.from_numpy(split.embeddings()))


def test_info_says_that_the_model_is_only_said(digits: Path) -> None:
    found = fc.info(digits / "named.zarr")["encoder"]
    assert (found["name"], found["weights"]) == ("mine", "said, not verified")
    assert fc.info(digits / "new-unnamed.zarr")["encoder"]["weights"].startswith("not known")
