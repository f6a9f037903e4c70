"""Caches, runs and studies written by the code of commit eab5498 open, continue, predict and resume.

`make.py` tells how they were made, and what the archive holds.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result

import featcache as fc
from featcache.cache.reader import CacheReader

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("one_thread", "old")

Command = Callable[..., Result]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_compat", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load(HERE / "make.py")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked once; not to be changed."""
    folder = tmp_path_factory.mktemp("eab5498")
    with tarfile.open(make.ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the archive's content, and the current folder: commands then read as in `make.py`."""
    folder = shutil.copytree(unpacked, tmp_path / "old")
    monkeypatch.chdir(folder)
    return folder


def extract(name: str, out: str) -> list[str]:
    return ["extract", "digits", *make.SMALL, *make.CACHES[name], "--out", out]


def train(name: str, out: str) -> list[str]:
    """The training, with the options as they are called now."""
    return [part.replace("data.source", "data.replay") for part in make.train(name, out)]


def read(path: Path | str) -> Any:
    return json.loads(Path(path).read_text())


def metrics(run: str) -> list[dict[str, float]]:
    # The replay cache was called `source`.
    text = Path(run, "metrics.jsonl").read_text().replace("source_share", "replay_share")
    return [json.loads(line) for line in text.splitlines()]


def renamed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of the old code, with the probes of the replayed cache as they are called now."""
    probes = {key.replace("source_", "replay_"): value for key, value in result.get("probes", {}).items()}
    return {**result, **({"probes": probes} if probes else {})}


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every value of nested JSON by its dotted name."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for k, v in items for key, leaf in leaves(v, f"{name}.{k}").items()}
    return {name: value}


def close(value: Any) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


def assert_same(found: Any, expected: Any) -> None:
    """Whatever the old code wrote is there and the same, but for the last digits and for what it took."""
    found = leaves(found)
    for key, value in leaves(expected).items():
        if key != ".seconds":
            assert key in found
            assert found[key] == close(value), key


def table(path: str) -> tuple[list[dict[str, str]], list[float]]:
    """The predictions of a file, and how sure each is."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, [float(row.pop("confidence")) for row in rows]


@pytest.mark.parametrize("name", make.CACHES)
def test_a_cache_gives_the_same_values(name: str) -> None:
    assert make.digests(CacheReader.open(name)) == read("digests.json")[name]


@pytest.mark.parametrize("name", make.CACHES)
def test_a_cache_is_described(name: str, featcache: Command) -> None:
    output = featcache("info", name).output
    assert make.CACHES[name][1] in output  # the model
    assert read(f"{name}/zarr.json")["attributes"]["featcache"]["fingerprint"][:8] in output


@pytest.mark.parametrize("name", make.KILLED_CACHES)
def test_a_killed_extraction_goes_on_to_the_bytes_of_the_old_code(
    name: str, featcache: Command, tree: Callable[[Path], Mapping[str, bytes]]
) -> None:
    finished, killed = CacheReader.open(name), Path(f"{name}-killed")
    assert 0 < len(list(killed.glob("*/status/ledger/*.*.json"))) < 24
    featcache(*extract(name, str(killed)))
    assert features(tree(killed)) == features(tree(Path(name)))
    # The old code had not begun the split `test`. It is begun in the format of today, with labels beside it.
    assert CacheReader.open(killed).labels.digest() == finished.labels.digest()
    assert CacheReader.open(killed).split("test").ids == finished.split("test").ids


def features(tree: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in tree.items() if "/c/" in name and "label" not in name}


@pytest.mark.parametrize("name", make.CACHES)
def test_a_finished_extraction_has_nothing_to_do(
    name: str, featcache: Command, tree: Callable[[Path], Mapping[str, bytes]]
) -> None:
    before = tree(Path(name))
    featcache(*extract(name, name))
    assert tree(Path(name)) == before


@pytest.mark.parametrize("name", make.RUNS)
def test_a_run_predicts_the_same(name: str, featcache: Command) -> None:
    """Besides new columns. Confidence was not calibrated then, so the temperature is taken back."""
    cache, *_ = make.RUNS[name]
    featcache("predict", f"runs/{name}", cache, "--device", "cpu", "--out", "now.csv")
    rows, _ = table("now.csv")
    rows_then, confidence_then = table(f"predictions/{name}.csv")
    assert [{column: row[column] for column in rows_then[0]} for row in rows] == rows_then
    said = fc.Run.open(f"runs/{name}").predict(cache, device="cpu")
    raw = said.probabilities ** read(f"runs/{name}/result.json")["temperature"]
    assert (raw.max(1) / raw.sum(1)).tolist() == pytest.approx(confidence_then, abs=1e-4)


@pytest.mark.parametrize("name", make.RUNS)
def test_a_finished_run_is_known_as_done(
    name: str, featcache: Command, tree: Callable[[Path], Mapping[str, bytes]]
) -> None:
    before = tree(Path("runs", name))
    accuracy = read(f"runs/{name}/result.json")["test"]["accuracy"]
    assert f"accuracy {accuracy:.2%}".replace("%", " %") in featcache(*train(name, name), "--resume").output
    assert tree(Path("runs", name)) == before


@pytest.mark.parametrize("name", make.KILLED_RUNS)
def test_a_killed_run_is_resumed_and_ends_the_same(name: str, featcache: Command) -> None:
    """It begins at the checkpoint of step 4: earlier lines of metrics stay, even this one made up here."""
    run, mark = f"runs/{name}-killed", {"step": 1, "loss": 123.0}
    assert not Path(run, "result.json").exists()
    _, *steps = metrics(run)
    Path(run, "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in (mark, *steps)))
    featcache(*train(name, f"{name}-killed"), "--resume")
    first, *steps = metrics(run)
    assert first == mark
    assert [step["step"] for step in steps] == list(range(2, 13))
    assert_same(steps, metrics(f"runs/{name}")[1:])
    assert_same(read(f"{run}/result.json"), renamed(read(f"runs/{name}/result.json")))


def test_another_training_is_still_refused(featcache: Command) -> None:
    """The options of an old run count, the renamed ones too."""
    changed = [*train("unsupervised", "unsupervised"), "--resume", "--set", "data.replay_ratio=0.25"]
    output = featcache(*changed, code=1).output
    assert "replay_ratio" in output
    assert "0.5" in output


@pytest.mark.parametrize("name", make.RUNS)
def test_a_run_opens_in_python(name: str) -> None:
    run = fc.Run.open(f"runs/{name}")
    result = read(f"runs/{name}/result.json")
    assert (run.objective, run.accuracy) == (name, result["test"]["accuracy"])
    assert_same(run.result(), renamed(result))


def table_figures() -> list[list[str]]:
    """Those of the lines of tables; the lines below them may say more than they did."""
    lines = Path("study/results.md").read_text().splitlines()
    return [accuracies(line) for line in lines if line.startswith("|")]


def test_a_study_is_done_and_its_table_has_the_same_figures(featcache: Command) -> None:
    before = {path: path.read_bytes() for path in Path("study").rglob("result.json")}
    assert len(before) == 4
    figures = table_figures()
    Path("study.toml").write_text(make.STUDY.replace('source = "replay"', 'replay = "replay"'))
    featcache("run", "study.toml", "--device", "cpu", "--out", "study")
    assert {path: path.read_bytes() for path in Path("study").rglob("result.json")} == before
    assert table_figures() == figures


def accuracies(line: str) -> list[str]:
    """The figures of a row of a table that are a mean and its spread."""
    return re.findall(r"[-+]?[\d.]+ ± [\d.]+", line)
