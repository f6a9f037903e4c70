"""Damaged runs: every flipped bit is found, and no command goes on with a damaged file."""

import json
import random
import shutil

import pytest

import featcache as fc
from featcache.errors import DamagedRun, FeatcacheError, TrainError
from featcache.results.compare import compare
from featcache.runs.saved import CHECKPOINT, CONFIG, METRICS, RESULT, is_sealed
from featcache.runs.verify import verify_run
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {
    "projector": {"heads": 2, "depth": 1},
    "optim": {"steps": 6, "batch_size": 6},
    "log": {"every": 1, "checkpoint_every": 4},
    "cv": 2,
}
OWN = '''
from featcache.objectives.supervised import Supervised, SupervisedOptions

class Mine(Supervised):
    """The same, from a file of one's own."""

objective = Mine
'''


@pytest.fixture(scope="module")
def cache(make_cache, tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("damaged") / "cache.zarr")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A finished run with files of every kind; not to be changed."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "mine.py").write_text(OWN)
    train(cache, folder / "run", f"python:{folder / 'mine.py'}")
    return folder / "run"


def train(cache, out, objective="supervised", **more):
    request = TrainRequest(cache, objective, labels_per_class=3, options=OPTIONS)
    return run_training(request, out, device="cpu", **more)


def damaged(run):
    return {damage.file for damage in verify_run(run).damages}


def names(run):
    return sorted(path.name for path in run.iterdir())


def flips(data, count, seed):
    """Some copies of `data` with one other bit each."""
    rng = random.Random(seed)
    for _ in range(count):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_run_as_it_was_written_is_whole(whole):
    verdict = verify_run(whole)
    assert verdict.files == dict.fromkeys(names(whole), "whole")
    assert verdict.whole
    assert {path.suffix for path in whole.iterdir() if is_sealed(path)} == {".json", ".safetensors"}
    assert len(names(whole)) == 11


def test_every_flipped_bit_is_found(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    for path in run.iterdir():
        data = path.read_bytes()
        for flipped in flips(data, 60, path.suffix):
            path.write_bytes(flipped)
            assert path.name in damaged(run)
        path.write_bytes(data)
    assert verify_run(run).whole


def predicted(run, cache):
    found = fc.Run.open(run, trust=True).predict(cache, device="cpu", coverage=0.8)
    return [
        getattr(found, name).tolist() for name in ("label", "probabilities", "novelty", "learned", "within")
    ]


COMMANDS = {
    "predict": predicted,
    "suggest": lambda run, cache: [s.id for s in fc.suggest(run, 4, device="cpu", trust=True)],
    "check": lambda run, cache: repr(fc.check(run, progress=False)),
    "compare": lambda run, cache: compare(run).as_dict(),
    "figures": lambda run, cache: (fc.Run.open(run).figures, repr(fc.Run.open(run))),
    "train": lambda run, cache: train(cache, run, f"python:{run / 'mine.py'}", resume=True),
}
READ = {
    "config.json": {*COMMANDS},
    "result.json": {*COMMANDS},
    "environment.json": {"suggest", "check", "compare"},
    "labels.json": {"predict", "suggest"},
    "task.safetensors": {"predict", "suggest", "check"},
    "checkpoint.safetensors": {"predict", "suggest"},
    "reference.safetensors": {"predict", "suggest"},
    "held_out.safetensors": {"predict", "check"},
    "mine.py": {"predict", "suggest"},
    "metrics.jsonl": set(),
}
"""The files that decide what a command says."""


@pytest.mark.parametrize("name", READ)
def test_a_command_refuses_a_file_with_a_flipped_bit(whole, cache, tmp_path, name):
    run = shutil.copytree(whole, tmp_path / "run")
    data = (run / name).read_bytes()
    expected = {command: ask(run, cache) for command, ask in COMMANDS.items()}
    for flipped in flips(data, 3, name):
        (run / name).write_bytes(flipped)
        for command, ask in COMMANDS.items():
            if command in READ[name]:
                with pytest.raises(TrainError, match=name):
                    ask(run, cache)
            elif not (name == "mine.py" and command == "train"):
                assert ask(run, cache) == expected[command]


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def deleted(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def without_its_seal(path):
    path.write_bytes(path.read_bytes().replace(b"seal", b"sail", 1))


def deep(path):
    path.write_text("[" * 100_000)


def of_another_run(path):
    shutil.copy(path.parent.parent / "other" / path.name, path)


DAMAGES = [emptied, halved, zeroed, deleted, a_folder, without_its_seal, deep, of_another_run]


@pytest.fixture(scope="module")
def other(cache, whole):
    """Another run, whole itself, beside the first."""
    request = TrainRequest(cache, "supervised", seed=1, labels_per_class=3, options=OPTIONS)
    run_training(request, whole.with_name("other"), device="cpu")
    (whole.with_name("other") / "mine.py").write_text(OWN + "more = 1")
    return whole.with_name("other")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READ)
def test_other_damage_is_refused(whole, other, cache, tmp_path, name, damage):
    shutil.copytree(other, tmp_path / "other")
    run = shutil.copytree(whole, tmp_path / "run")
    damage(run / name)
    if (run / name).is_file() and (run / name).read_bytes() == (whole / name).read_bytes():
        return  # no seal to take away, or the same environment
    if name == RESULT and damage is deleted:  # then it is an unfinished run, and can be resumed
        assert verify_run(run).whole
    else:
        # The files do not belong to a result of another run.
        assert damaged(run) >= {CONFIG if damage is of_another_run and name == RESULT else name}
    for command in READ[name] - ({"train"} if damage is deleted else set()):
        with pytest.raises(
            FeatcacheError, match=name if damage is not of_another_run else "json|tensors|mine"
        ):
            COMMANDS[command](run, cache)


def test_a_run_without_its_configuration_is_left_alone(whole, cache, tmp_path, tree):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / CONFIG).unlink()
    before = tree(run)
    with pytest.raises(TrainError, match="not a run"):
        train(cache, run, resume=True)
    assert tree(run) == before


@pytest.fixture(scope="module")
def unfinished(cache, tmp_path_factory):
    """A run that was broken off behind its checkpoint of step 4; not to be changed."""
    run = tmp_path_factory.mktemp("unfinished") / "run"

    def stop(step, terms):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cache, run, watch=stop)
    return run


def test_of_an_unfinished_run_what_is_used_again_is_checked(unfinished, cache, tmp_path):
    expected = train(cache, tmp_path / "expected")["test"]
    verdict = verify_run(unfinished)
    assert verdict.whole
    assert [name for name in verdict.unknown if not name.startswith("events")] == []
    seen = len(b"".join((unfinished / METRICS).read_bytes().splitlines(keepends=True)[:4]))
    for name in (CONFIG, METRICS, CHECKPOINT):
        run = shutil.copytree(unfinished, tmp_path / "run")
        data = (run / name).read_bytes()
        used = data[:seen] if name == METRICS else data
        for flipped in flips(used, 8, name):
            (run / name).write_bytes(flipped + data[len(used) :])
            assert name in damaged(run)
            with pytest.raises(DamagedRun, match=name):
                train(cache, run, resume=True)
        (run / name).write_bytes(data + b"torn" if name == METRICS else data)
        assert train(cache, run, resume=True)["test"] == expected
        shutil.rmtree(run)


def test_a_run_of_an_earlier_version_says_that_it_cannot_be_checked(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in (CONFIG, RESULT):
        content = json.loads((whole / name).read_text())
        (run / name).write_text(json.dumps({k: v for k, v in content.items() if k not in ("seal", "files")}))
    verdict = verify_run(run)
    assert verdict.files == {CONFIG: "unknown", RESULT: "unknown"}
    (run / CONFIG).write_text('{"seed": "one"}')
    assert damaged(run) == {CONFIG}
    with pytest.raises(TrainError, match="no run"):
        verify_run(tmp_path / "gone")
