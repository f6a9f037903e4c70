"""`featcache package`: raw samples get the very predictions that a cache of them gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import featcache as fc
from featcache.errors import (
    CacheError,
    ConfigError,
    DamagedRun,
    EncoderError,
    FeatcacheError,
    FileError,
    Notice,
)
from featcache.locks import FileLock

GLYPH = "open_clip:glyph-clip"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
@pytest.mark.parametrize("objective", ["linear", "supervised"])
def test_raw_samples_get_the_predictions_of_their_cache(
    trained: Callable[..., Any], photos: Path, tmp_path: Path, dtype: str, objective: str
) -> None:
    made = trained(GLYPH, objective, dtype=dtype, tokens="grid:2x2")
    (photos / "test" / "cat" / "broken.png").write_bytes(b"no image")
    fc.package(made.run, tmp_path / "model")
    fc.extract(photos, GLYPH, tmp_path / "new.zarr", num_workers=0, dtype=dtype, tokens="grid:2x2")
    tables = [tmp_path / "raw.csv", tmp_path / "cached.csv"]
    raw = fc.predict(tmp_path / "model", photos, tables[0], probabilities=True)
    cached = fc.predict(made.run, tmp_path / "new.zarr", tables[1], probabilities=True)
    assert raw["test"].failed == cached["test"].failed == 1
    assert [*raw["test"].failures] == ["cat/broken.png"]
    if dtype == "int8":  # the divisors are those of the first cache, not of the new one
        first, second = (table.read_text().split()[1].split(",")[2] for table in tables)
        assert first == second
    else:
        assert tables[0].read_bytes() == tables[1].read_bytes()


def test_a_package_takes_a_cache_too(trained: Callable[..., Any], tmp_path: Path) -> None:
    made = trained(GLYPH)
    fc.package(made.run, tmp_path / "model")
    for name in ("model", "made/run"):
        fc.predict(tmp_path / name, made.cache, tmp_path / f"{Path(name).name}.csv")
    assert (tmp_path / "model.csv").read_bytes() == (tmp_path / "run.csv").read_bytes()


def test_samples_in_memory(trained: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    made = trained(GLYPH, "supervised", tokens="cls")
    model = fc.package(made.run, tmp_path / "model")
    files = sorted((photos / "train").rglob("*.png"))
    expected = fc.Run.open(made.run).predict(fc.Cache.open(made.cache)["train"])
    forms: list[Any] = [
        files,
        [str(file) for file in files],
        [file.read_bytes() for file in files],
        [Image.open(file) for file in files],
        [np.asarray(Image.open(file)) for file in files],
    ]
    for samples in forms:
        found = model(samples)
        np.testing.assert_array_equal(found.label, expected.label)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
        np.testing.assert_allclose(found.z, expected.z, atol=1e-5)
    assert [*model(files).id] == [str(file) for file in files]
    assert len(model(files[0])) == len(model(np.asarray(Image.open(files[0])))) == 1
    assert len(model([])) == 0


def test_what_cannot_be_read_is_said(trained: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    model = fc.package(trained(GLYPH).run, tmp_path / "model")
    good = next(photos.rglob("*.png"))
    with pytest.warns(Notice, match="1 of 2 samples"):
        found = model([tmp_path / "gone.png", good])
    assert found.label[0] is None
    assert found.label[1] in model.classes
    with pytest.raises(FeatcacheError):
        model([3])


def test_folders_that_are_no_classes_are_no_labels(
    trained: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    model = fc.package(trained(GLYPH).run, tmp_path / "model")
    shutil.copytree(photos / "test" / "cat", tmp_path / "new" / "2026-05")
    summary = fc.predict(model.path, tmp_path / "new", tmp_path / "p.csv")["train"]
    assert (summary.rows, summary.judged) == (2, 0)


def timm_model(folder: Path) -> str:
    torch.manual_seed(1)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "mine.pth")
    return f"timm:test_vit/{folder / 'mine.pth'}"


def hub_model(folder: Path) -> str:
    timm.models.save_for_hf(timm.create_model("test_resnet"), folder / "saved", safe_serialization=True)
    return f"timm:{folder / 'saved'}"


@pytest.mark.parametrize("kind", ["timm", "timm-folder", "vit", "open_clip", "random"])
def test_weights_make_the_package_independent(
    trained: Callable[..., Any], photos: Path, vit: Path, tower: str, tmp_path: Path, kind: str
) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    makers: dict[str, Callable[[], str]] = {
        "timm": lambda: timm_model(lost),
        "timm-folder": lambda: hub_model(lost),
        "vit": lambda: f"hf:{shutil.copytree(vit, lost / 'vit')}",
        "open_clip": lambda: GLYPH,
        "random": lambda: tower,
    }
    made = trained(makers[kind](), tokens="pooled")
    expected = fc.Run.open(made.run).predict(fc.Cache.open(made.cache)["test"])
    fc.package(made.run, tmp_path / "model", weights=True)
    shutil.rmtree(lost)
    moved = tmp_path / "moved"
    (tmp_path / "model").rename(moved)
    found = fc.load(moved)(sorted((photos / "test").rglob("*.png")))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_texts_with_weights(trained: Callable[..., Any], texts: Path, bert: Path, tmp_path: Path) -> None:
    lost = shutil.copytree(bert, tmp_path / "lost")
    made = trained(f"hf:{lost}@10", "supervised", source=texts)
    expected = fc.Run.open(made.run).predict(made.cache)
    fc.package(made.run, tmp_path / "model", weights=True)
    shutil.rmtree(lost)
    model = fc.load(tmp_path / "model")
    lines = [line.rpartition(",")[0] for line in texts.read_text().splitlines()[1:]]
    np.testing.assert_allclose(model(lines).probabilities, expected.probabilities, atol=1e-6)
    assert len(model("the cat sat")) == 1


def test_the_card_says_what_is_known(trained: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "cat").rename(photos / "train" / "```\u202e# cat")
    (photos / "test" / "cat").rename(photos / "test" / "```\u202e# cat")
    fc.package(trained(GLYPH).run, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "4 labels" in card
    assert "of 4 test samples are right" in card
    assert "    ```\\u202e# cat\n" in card


def test_no_path_of_the_machine_is_in_it(
    trained: Callable[..., Any], tmp_path: Path, tree: Callable[[Path], Any]
) -> None:
    fc.package(trained(GLYPH).run, tmp_path / "model")
    for name, data in tree(tmp_path / "model").items():
        assert str(tmp_path).encode() not in data, name


class TestRefused:
    """Nothing is written, and the message says what to do."""

    def refused(self, error: type[FeatcacheError], run: Path, out: Path, **options: Any) -> str:
        before = sorted(out.parent.iterdir())
        with pytest.raises(error) as caught:
            fc.package(run, out, **options)
        assert sorted(out.parent.iterdir()) == before
        return str(caught.value)

    def test_a_place_that_is_taken(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        run = trained(GLYPH).run
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mine.txt").write_text("mine")
        self.refused(ConfigError, run, tmp_path / "model")
        assert (tmp_path / "model" / "mine.txt").read_text() == "mine"

    def test_a_cache_that_is_gone(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        made = trained(GLYPH)
        made.cache.rename(tmp_path / "elsewhere.zarr")
        assert "--cache" in self.refused(CacheError, made.run, tmp_path / "model").replace(
            "`cache`", "--cache"
        )
        fc.package(made.run, tmp_path / "model", cache=tmp_path / "elsewhere.zarr")

    def test_imported_embeddings(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "e.npz", embeddings=np.eye(8, dtype="f4"), labels=np.arange(8) % 2)
        fc.import_embeddings(tmp_path / "e.npz", tmp_path / "c.zarr")
        fc.train(tmp_path / "c.zarr", "linear", labels_per_class=2, out=tmp_path / "run")
        assert "imported" in self.refused(EncoderError, tmp_path / "run", tmp_path / "model")

    def test_another_model(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        run = trained("timm:test_vit/random-1").run
        said = self.refused(EncoderError, run, tmp_path / "model", model="timm:test_vit/random-2")
        assert "weights" in said

    def test_the_user_s_own_model(
        self, trained: Callable[..., Any], frozen: Callable[[str], str], photos: Path, tmp_path: Path
    ) -> None:
        run = trained(frozen("tiny")).run
        assert "frozen_modules.py" in self.refused(ConfigError, run, tmp_path / "model")
        self.refused(EncoderError, run, tmp_path / "model", trust=True, weights=True)
        fc.package(run, tmp_path / "model", trust=True)
        with pytest.raises(ConfigError, match="names Python code"):
            fc.load(tmp_path / "model")
        assert len(fc.load(tmp_path / "model", trust=True)(next(photos.rglob("*.png")))) == 1

    def test_what_is_no_unfinished_package(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        run = trained(GLYPH).run
        (tmp_path / "model.partial").mkdir()
        (tmp_path / "model.partial" / "mine.txt").write_text("mine")
        assert "in the way" in self.refused(ConfigError, run, tmp_path / "model")
        assert (tmp_path / "model.partial" / "mine.txt").read_text() == "mine"

    def test_a_second_process(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        run = trained(GLYPH).run
        with FileLock(tmp_path / "model.lock", "writing it", ConfigError):
            assert "another process" in self.refused(ConfigError, run, tmp_path / "model")

    @pytest.mark.parametrize("limit", [200, 20_000, 1_000_000])
    def test_a_full_disk(
        self, trained: Callable[..., Any], tmp_path: Path, file_limit: Any, limit: int
    ) -> None:
        run = trained("timm:test_vit/random", tokens="pooled").run
        with file_limit(limit):
            self.refused(FileError, run, tmp_path / "model", weights=True)
        assert len(fc.package(run, tmp_path / "model", weights=True).classes) == 2

    def test_what_a_kill_has_left_is_removed(self, trained: Callable[..., Any], tmp_path: Path) -> None:
        made = fc.package(trained(GLYPH).run, tmp_path / "model")
        left = tmp_path / "model.partial"
        made.path.rename(left)
        (left / "README.md").unlink()
        (left / "package.json.partial").write_text("{")
        fc.package(tmp_path / "made" / "run", tmp_path / "model")
        assert not left.exists()


class TestOnAnotherMachine:
    """A package says what differs there."""

    @pytest.fixture
    def model(self, trained: Callable[..., Any], tmp_path: Path) -> Path:
        return fc.package(trained(GLYPH).run, tmp_path / "model").path

    def edit(self, folder: Path, reseal: Callable[[str], bytes], **values: Any) -> None:
        content = json.loads((folder / "package.json").read_text())
        (folder / "package.json").write_bytes(reseal(json.dumps(content | values, indent=2)))

    def test_other_versions(self, model: Path, reseal: Callable[[str], bytes]) -> None:
        self.edit(model, reseal, versions={"torch": "1.0", "pillow": "2.0"})
        opened = fc.load(model)
        assert next(opened.package.differing()).startswith("torch 1.0 there, ")
        assert "torch 1.0 there, " in repr(opened)

    def test_other_weights(self, model: Path, reseal: Callable[[str], bytes]) -> None:
        spec = json.loads((model / "package.json").read_text())["encoder"]
        self.edit(model, reseal, encoder=spec | {"weights": "0" * 64}, versions={"torch": "1.0"})
        with pytest.raises(EncoderError, match=r"`weights` differs(.|\n)*torch 1\.0 there"):
            fc.load(model)

    def test_other_numbers(self, model: Path, reseal: Callable[[str], bytes]) -> None:
        self.edit(model, reseal, dtype="int8", std=[1e-3] * 128, versions={"torch": "1.0"})
        (model / "check.safetensors").unlink()
        with pytest.raises(DamagedRun, match=r"check\.safetensors"):
            fc.load(model)

    @pytest.mark.parametrize("std", [[], [1.0] * 5])
    def test_divisors_that_do_not_fit(
        self, model: Path, reseal: Callable[[str], bytes], std: list[float]
    ) -> None:
        self.edit(model, reseal, dtype="int8", std=std)
        with pytest.raises(EncoderError, match="divisors"):
            fc.load(model)

    def test_other_numbers_of_the_sample(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "featcache.packaging.model.sample_of", lambda _: Image.new("RGB", (32, 32), "red")
        )
        with pytest.warns(Notice, match="other numbers than the one that made the package"):
            fc.load(model)

    def test_another_format(self, model: Path, reseal: Callable[[str], bytes]) -> None:
        self.edit(model, reseal, format=2)
        with pytest.raises(ConfigError, match="another version"):
            fc.load(model)

    @pytest.mark.parametrize("name", ["hf:../elsewhere", "timm:/etc", "open_clip:encoder/../.."])
    def test_a_model_that_leaves_the_folder(
        self, model: Path, reseal: Callable[[str], bytes], name: str
    ) -> None:
        self.edit(model, reseal, model=name, inside=True)
        with pytest.raises(ConfigError, match="outside of its folder"):
            fc.load(model)

    def test_damage(self, model: Path) -> None:
        data = bytearray((model / "package.json").read_bytes())
        data[len(data) // 2] ^= 1
        (model / "package.json").write_bytes(bytes(data))
        with pytest.raises(DamagedRun):
            fc.load(model)

    def test_the_model_is_at_another_place(
        self, trained: Callable[..., Any], photos: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "here").mkdir()
        made = trained(timm_model(tmp_path / "here"))
        fc.package(made.run, tmp_path / "package")
        (tmp_path / "here").rename(tmp_path / "there")
        with pytest.raises(EncoderError):
            fc.load(tmp_path / "package")
        there = f"timm:test_vit/{tmp_path / 'there' / 'mine.pth'}"
        assert fc.load(tmp_path / "package", model=there).classes == ("cat", "dog")
        summary = fc.predict(tmp_path / "package", photos, tmp_path / "p.csv", model=there)
        assert summary["test"].judged == 4


def test_the_commands(
    trained: Callable[..., Any], photos: Path, tmp_path: Path, featcache: Callable[..., Any]
) -> None:
    made = trained(GLYPH)
    said = featcache("package", made.run, "--out", tmp_path / "model", "--json").output
    assert json.loads(said)["classes"] == ["cat", "dog"]
    (photos / "train" / "cat" / "new.png").write_bytes(b"")
    said = featcache("predict", tmp_path / "model", photos, "--out", tmp_path / "p.csv").output
    assert "not read: cat/new.png: the file is empty" in said
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 11 + 4
    said = featcache(
        "predict", made.run, made.cache, "--model", "x", "--out", tmp_path / "q.csv", code=1
    ).output
    assert "--model" in said


def test_no_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no package at"):
        fc.load(tmp_path)
