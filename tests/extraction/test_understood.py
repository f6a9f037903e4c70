"""What is understood of a source is said: classes with counts, and what looks like a mistake."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from featcache.errors import ConfigError, SourceError
from featcache.extraction.levels import deeper_level, is_generic
from featcache.extraction.understood import Understood, understand
from featcache.sources import open_source
from featcache.sources.base import digest_samples, limit
from featcache.stages.extract import dry_run, extract

Command = Callable[..., Result]


def _png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PNG = _png()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes images below `set`, and returns the folder."""

    def run(names: Sequence[str], data: bytes = PNG) -> str:
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(tmp_path / "set")

    return run


def look(spec: str, **options: Any) -> Understood:
    splits = open_source(spec, **options)
    return understand(spec, splits, splits)


MICROSCOPY = [
    "2024 Exp1/Type A (good)/1.png",
    "2024 Exp1/type-B/2.png",
    "exp2_final_FINAL/C/plate1/3.png",
    "exp2_final_FINAL/Type A (good)/4.png",
    "unsorted/5.png",
    "loose.png",
]


def test_folders_of_batches_are_asked_about_with_the_pattern_that_helps(write: Callable[..., str]) -> None:
    spec = write(MICROSCOPY)
    found = look(spec)
    assert found.splits["train"].classes == {"2024 Exp1": 2, "exp2_final_FINAL": 2}
    assert found.splits["train"].unlabelled == 2
    (aside, doubt) = found.warnings
    assert "unsorted" in aside
    assert "label_from='*/LABEL/**'" in doubt
    assert "no_labels=True" in doubt
    assert "2024 Exp1" in doubt
    assert "--label-from '*/LABEL/**'" in found.warning_lines(command_line=True)[1]
    better = look(spec, label_from="*/LABEL/**")
    assert better.splits["train"].classes == {"C": 1, "Type A (good)": 2, "type-B": 1}
    assert look(spec, no_labels=True).splits["train"].classes == {}
    assert look(spec, label_from="LABEL/**").splits["train"].classes["unsorted"] == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat/1.png", "dog/2.png"], None),
        (["cat/images/1.png", "dog/images/2.png"], None),
        (["7/1.png", "12/2.png"], None),
        (["cup/1.png", "plate/2.png"], None),
        (["amazon/bike/1.png", "amazon/cup/2.png", "webcam/bike/3.png"], "*/LABEL/**"),
        (["batch_3/1.png", "batch_4/2.png"], "no_labels"),
        (["2024-01-31/1.png", "20240201/2.png"], "no_labels"),
        (["photos/1.png"], "no_labels"),
    ],
)
def test_only_doubtful_levels_are_asked_about(write: Callable[..., str], names: list[str], said: str) -> None:
    doubts = [text for text in look(write(names)).warnings if "no_labels" in text]
    assert len(doubts) == (said is not None)
    assert all(said in text for text in doubts)


def test_names_of_batches_and_of_classes() -> None:
    batches = ("images", "IMG", "exp2_final", "Plate 1", "run-07", "2023", "jan 2024", "day3")
    classes = ("cat", "plate", "run", "model 3", "Type A", "3", "007", "jan", "n01443537")
    assert [name for name in (*batches, *classes) if is_generic(name)] == [*batches]
    assert deeper_level(["cat/1.png", "dog/2.png"]) is None


def test_classes_that_train_lacks_are_named(write: Callable[..., str]) -> None:
    spec = write(["train/n1/images/1.png", "train/n2/images/2.png", "val/images/3.png", "test/images/4.png"])
    validation, test = look(spec).warnings
    for name, text in (("validation", validation), ("test", test)):
        assert f"`{name}`" in text
        assert "label_from='LABEL/*/*'" in text
    better = look(spec, label_from="LABEL/*/*")
    assert better.warnings == ()
    assert better.splits["test"].unlabelled == 1
    assert better.splits["train"].classes == {"n1": 1, "n2": 1}


def test_two_unicode_forms_are_one_class_and_said(write: Callable[..., str]) -> None:
    spec = write(
        [
            f"{s}/{unicodedata.normalize(f, c)}/1.png"
            for s, f in (("train", "NFD"), ("test", "NFC"))
            for c in ("bar", "caf\u00e9")
        ]
    )
    found = look(spec)
    assert found.splits["train"].classes == found.splits["test"].classes == {"bar": 1, "caf\u00e9": 1}
    assert "caf\u00e9" in found.warnings[0]
    assert look(spec, label_from="LABEL/*").splits["test"].classes == {"bar": 1, "caf\u00e9": 1}


def test_names_that_differ_in_form_only_are_named(write: Callable[..., str]) -> None:
    found = look(write(["Type A/1.png", "type-a/2.png", "other/3.png", "nan/4.png"]))
    assert len(found.splits["train"].classes) == 4
    alike, missing = found.warnings
    assert "`Type A` and `type-a`" in alike
    assert "nan" in missing


def test_images_that_are_not_read_are_counted(write: Callable[..., str]) -> None:
    write(["train/spoon/1.HEIC", "train/spoon/2.HEIC"], b"heic")
    found = look(write(["train/cup/1.png", "train/fork/2.png", "train.csv"]))
    assert ".heic (2)" in found.warnings[0]
    assert "spoon" in found.warnings[1]
    assert "train.csv" in found.warnings[2]


def test_a_limit_that_leaves_classes_out(write: Callable[..., str]) -> None:
    spec = write(["cat/1.png", "cat/2.png", "dog/3.png"])
    whole = open_source(spec)
    found = understand(spec, whole, {"train": limit(whole["train"], 2)})
    assert found.splits["train"].classes == {"cat": 2}
    (text,) = found.warnings
    assert "limit" in text
    assert "dog" in text


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        ("path,cell type\na.png,T\nb.png,B\n", {}, "label_column='cell type'"),
        ("path,grow\na.png,T\nb.png,T\nc.png,B\nd.png,B\n", {}, "label_column='grow'"),
        ("path,kind\na.png,\nb.png,\n", {"label_column": "kind"}, "`kind`"),
        ("path\ncat/a.png\ndog/b.png\n", {}, "label_from='LABEL/**'"),
        ("path,note\na.png,first\nb.png,second\n", {}, None),
        ("path,label\na.png,x\nb.png,y\n", {}, None),
    ],
)
def test_a_table_without_labels_names_what_there_is(
    tmp_path: Path, table: str, options: dict[str, str], said: str | None
) -> None:
    (tmp_path / "set.csv").write_text(table)
    warnings = look(str(tmp_path / "set.csv"), **options).warnings
    assert len(warnings) == (said is not None)
    assert all(str(said) in text for text in warnings)


def test_patterns_that_do_not_fit(write: Callable[..., str]) -> None:
    spec = write(["cat/1.png"])
    for pattern in ("*/*", "LABEL/LABEL"):
        with pytest.raises(ConfigError, match="label_from"):
            open_source(spec, label_from=pattern)
    with pytest.raises(SourceError, match=r"(?s)label_from='\*/LABEL/\*'.*cat/1.png"):
        open_source(spec, label_from="*/LABEL/*")
    with pytest.raises(ConfigError, match=r"label_from[\s\S]*no_labels"):
        open_source(spec, label_from="LABEL/*", no_labels=True)


def test_labels_from_paths_keep_the_identity_of_the_samples(write: Callable[..., str]) -> None:
    spec = write(["a/x/1.png", "b/y/2.png"])
    plain, other = (
        open_source(spec, no_labels=True)["train"],
        open_source(spec, label_from="*/LABEL/*")["train"],
    )
    assert digest_samples(plain) == digest_samples(other)
    assert list(plain.ids) == list(other.ids)
    assert other.labels.tolist() == [0, 1]


@pytest.mark.usefixtures("one_thread")
def test_the_command_and_python_say_it_before_the_model_runs(
    write: Callable[..., str], featcache: Command, frozen: Callable[[str], str], tmp_path: Path, capsys: Any
) -> None:
    spec, out = write(["batch1/cat/1.png", "batch2/cat/2.png", "batch1/dog/3.png"]), tmp_path / "c.zarr"
    command = ("extract", spec, "--model", frozen("tiny"), "--out", out, "--num-workers", 0)
    told = featcache(*command)
    assert "--label-from '*/LABEL/**'" in told.stderr
    assert "2 classes (batch1 2, batch2 1)" in told.stdout
    again = featcache(*command, "--label-from", "*/LABEL/**", "--dry-run", "--json")
    assert json.loads(again.stdout)["understood"]["splits"]["train"]["classes"] == {"cat": 2, "dog": 1}
    assert again.stderr == ""
    assert ", 0 views computed" in featcache(*command, "--label-from", "*/LABEL/**").stdout
    assert json.loads(featcache("info", out, "--json").stdout)["splits"]["train"]["classes"] == {
        "cat": 2,
        "dog": 1,
    }
    dry = dry_run(spec, frozen("tiny"), out, num_workers=0)
    assert dry.understood.splits["train"].classes == {"batch1": 2, "batch2": 1}
    capsys.readouterr()
    extract(spec, frozen("tiny"), tmp_path / "d.zarr", num_workers=0, no_labels=True)
    assert capsys.readouterr().err == ""
