"""`featcache bench`: every bottleneck in words, options that exist, and errors for people."""

import json
import re
from dataclasses import replace

import click
import pytest

from featcache.bench.explain import (
    Extraction,
    Reading,
    Training,
    disk_words,
    extraction_words,
    training_words,
)
from featcache.cli import main
from featcache.config import parse_overrides
from featcache.errors import in_python, on_the_command_line, option
from featcache.training.options import TrainOptions

GB = 10**9
READING = Reading(50_000, 45_000, 2_000, 12_345, nbytes=12 * GB // 10, free=15 * GB, residency="ram")
STEP = Training(
    "twinturbo",
    900.0,
    tried={option("optim.amp", "bfloat16"): 1530.0, option("data.token_subset", 0.5): 910.0},
)
EXTRACTION = Extraction("hf:x", decode=100.0, forward=40.0, readers=1, cores=4, device="cpu")
SMALLER = (option("dtype", "int8"), option("tokens", "grid:4x4"))
FAST = replace(STEP, step=99_000.0)
LARGE = replace(READING, residency="stream", nbytes=90 * GB)
WORDS = {
    "step": (
        training_words(READING, STEP, SMALLER),
        [
            "Training .*step",
            "12,300",
            "900",
            r"amp=bfloat16 \(1.7 times",
            r"subset=0.5 \(1.0 times",
            "Not measured: .*--tokens grid:4x4",
        ],
    ),
    "disk": (
        training_words(LARGE, FAST, SMALLER),
        [
            "Training .*disk",
            "2,000 samples/s",
            "99,000",
            "90.0 GB",
            "15.0 GB",
            "would help: .*--dtype int8 or --tokens grid:4x4",
        ],
    ),
    "disk, smallest": (training_words(LARGE, FAST, ()), ["90.0 GB", "15.0 GB", "faster disk would help"]),
    "files": (
        training_words(replace(READING, residency="stream"), FAST, SMALLER),
        [
            "Training .*files",
            "12,300 samples/s",
            "99,000",
            "--set data.residency=ram would help",
            "1.2 GB",
            "15.0 GB",
        ],
    ),
    "memory": (
        training_words(READING, FAST, SMALLER),
        [
            "Training .*memory",
            "12,300 samples/s",
            "99,000",
            "would help: .*--dtype int8 or --tokens grid:4x4",
        ],
    ),
    "a large cache, a slow step": (training_words(LARGE, STEP, ()), ["Training .*step", "900", "2,000"]),
    "no disk": (disk_words(replace(READING, cold=None)), ["disk was not measured"]),
    "first epoch": (disk_words(READING), ["first epoch .*disk", "2,000 samples/s"]),
    "fast disk": (disk_words(replace(READING, cold=12_000.0)), ["disk .*first epoch .*others"]),
    "every epoch": (disk_words(LARGE), ["every epoch reads the disk"]),
    "forward": (
        extraction_words(replace(EXTRACTION, tried={option("amp", "bfloat16"): 80.0})),
        [
            "Extraction .*forward pass",
            "1 reader gives 100",
            "40",
            r"--amp bfloat16 \(2.0 times",
            "Not measured: .*GPU.*--device cuda",
        ],
    ),
    "decode": (
        extraction_words(replace(EXTRACTION, forward=290.0, device="cuda")),
        ["Extraction .*decoding", "1 reader gives 100 views/s", "290", "--num-workers 3 would help"],
    ),
    "decode on all cores": (
        extraction_words(replace(EXTRACTION, forward=4000.0, readers=4)),
        ["Extraction .*decoding", "4 readers give 400 views/s", "4,000", "4 cores", "more cores"],
    ),
}


@pytest.mark.parametrize("bound", WORDS)
def test_each_bottleneck_is_explained_with_its_rates_and_options(bound: str) -> None:
    said, facts = WORDS[bound]
    for fact in facts:
        assert re.search(fact, on_the_command_line(said))
    assert "--" not in in_python(said)


def test_only_an_option_that_was_faster_is_recommended() -> None:
    slower = replace(STEP, tried={option("optim.amp", "bfloat16"): 910.0})
    assert "would help" in training_words(READING, STEP, ())
    assert "would help" not in training_words(READING, slower, ())


def test_what_it_recommends_exists() -> None:
    said = on_the_command_line(" ".join(text for text, _ in WORDS.values()))
    settings = re.findall(r"--set (\S+=[\w.]+)", said)
    assert len(set(settings)) == 3
    for setting in settings:
        TrainOptions.parse(parse_overrides([setting]), "the options")
    command = main.commands["extract"]
    known = {name for option in command.get_params(click.Context(command)) for name in option.opts}
    found = {name for name in re.findall(r"--[a-z-]+", said) if name != "--set"}
    assert found == {"--dtype", "--tokens", "--amp", "--device", "--num-workers"} <= known


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.bench.turns.SECONDS", 0.05)


@pytest.mark.usefixtures("quick", "one_thread")
def test_a_cache_is_measured_and_extraction_with_it(featcache, photos, frozen, tmp_path, tree) -> None:
    path = tmp_path / "c.zarr"
    featcache("extract", photos, "--model", frozen("tiny"), "--out", path, "--num-workers", 0)
    before = tree(path)
    options = ("--set", "optim.batch_size=4", "--set", "projector.heads=2", "--device", "cpu")
    said = featcache("bench", path, "--objective", "supervised", *options).stdout
    table, words = said.split("\n\n")
    rates = dict(re.fullmatch(r" *(.*?)  +([\d.,]+) \w+/s", line).groups() for line in table.splitlines())
    assert {"the loader's batches", "a step of supervised alone", "training from files"} <= rates.keys()
    assert {"training from residency (ram)", "with --set optim.amp=bfloat16"} <= rates.keys()
    assert {"reading and decoding, one reader", "with --amp bfloat16"} <= rates.keys()
    assert all(float(rate.replace(",", "")) > 0 for rate in rates.values())
    assert len({line.index(line.rsplit(" ", 1)[1]) for line in table.splitlines()}) == 1
    assert re.match("Training is .*\nT?.*disk.*\nExtraction is ", words)
    assert tree(path) == before


@pytest.mark.usefixtures("quick", "one_thread")
def test_a_cache_that_does_not_know_its_source_says_what_to_give(featcache, make_cache, tmp_path) -> None:
    path = make_cache(tmp_path / "c.zarr", strong=2, mask=True)
    options = ("--set", "projector.heads=2", "--set", "optim.steps=3", "--device", "cpu")
    said = featcache("bench", path, *options).stdout
    assert "a step of twinturbo alone" in said
    assert re.search(r"Extraction was not measured: .*give --source and --model\.\n$", said)
    result = featcache("bench", path, "--source", tmp_path / "gone", "--model", "timm:x", *options, code=1)
    assert "gone" in result.stderr


@pytest.mark.usefixtures("quick", "one_thread")
def test_of_an_older_cache_source_and_model_are_given(featcache, photos, frozen, tmp_path, reseal) -> None:
    path, model = tmp_path / "c.zarr", frozen("tiny")
    featcache("extract", photos, "--model", model, "--out", path, "--num-workers", 0)
    content = json.loads((path / "zarr.json").read_text())
    command = {"command": f"featcache extract {photos} --model {model}", "versions": {}}
    content["attributes"]["featcache"]["provenance"] = command
    (path / "zarr.json").write_bytes(reseal(json.dumps(content)))
    options = ("--objective", "supervised", "--set", "projector.heads=2", "--device", "cpu")
    assert "give --source and --model" in featcache("bench", path, *options).stdout
    said = featcache("bench", path, "--source", photos, "--model", model, *options).stdout
    assert "reading and decoding, one reader" in said


def test_what_cannot_be_measured_is_refused(featcache, make_cache, tmp_path) -> None:
    assert "no featcache cache at" in featcache("bench", tmp_path, code=1).stderr
    begun = make_cache(tmp_path / "begun.zarr", unwritten=1)
    assert "is not complete" in featcache("bench", begun, code=1).stderr
    whole = make_cache(tmp_path / "whole.zarr")
    assert "knn, which trains no steps" in featcache("bench", whole, "--objective", "knn", code=1).stderr
    bare = make_cache(tmp_path / "bare.zarr", splits={"train": [-1] * 20, "test": [0] * 4})
    assert "no labels to draw from" in featcache("bench", bare, code=1).stderr
    options = ("--set", "data.train=trian")
    assert "the cache has no split `trian`" in featcache("bench", whole, *options, code=1).stderr
