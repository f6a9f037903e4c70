"""Single bits that flip in any file of a cache or a run: found, never silent, and brought back."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import featcache as fc
from tests.torture.commands import files, run_files, training
from tests.torture.processes import Ended, Forge

pytestmark = pytest.mark.torture


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def any_file(folder: Path, rng: random.Random) -> Path:
    """Choose a file: first a kind, then one of that kind, so that small ones have their share."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size:
            parts = path.relative_to(folder).parts
            kinds.setdefault("/".join(part for part in parts if not part[:1].isdigit()), []).append(path)
    return rng.choice(kinds[rng.choice(sorted(kinds))])


def test_every_flip_in_a_cache_is_found_and_brought_back(
    prepared: Path, tmp_path: Path, count: Callable[..., int], rng: random.Random, figure: Callable[..., None]
) -> None:
    whole, found, repaired, times = prepared / "whole.zarr", 0, 0, count(700, 20)
    cache = shutil.copytree(whole, tmp_path / "c.zarr")
    expected = files(whole)
    for _ in range(times):
        path = any_file(cache, rng)
        flip(path, rng)
        damages = fc.verify(cache, progress=False).damages
        found += any(path.relative_to(cache).is_relative_to(damage.file) for damage in damages)
        fc.repair(cache, progress=False)
        repaired += files(cache) == expected
    figure("flips in a cache", times, found_by_verify=found, repaired_to_the_byte=repaired)
    assert found == repaired == times


def test_every_flip_in_a_run_is_found(
    prepared: Path, tmp_path: Path, count: Callable[..., int], rng: random.Random, figure: Callable[..., None]
) -> None:
    run, found, times = shutil.copytree(prepared / "run", tmp_path / "run"), 0, count(300, 20)
    for _ in range(times):
        path = any_file(run, rng)
        before = path.read_bytes()
        flip(path, rng)
        found += path.name in {damage.file for damage in fc.verify(run, progress=False).damages}
        path.write_bytes(before)
    figure("flips in a run", times, found_by_verify=found)
    assert found == times


COMMANDS: dict[str, Callable[[Path, Path, Path], tuple[object, ...]]] = {
    "train": lambda cache, run, out: training(cache, out),
    "predict": lambda cache, run, out: ("predict", run, cache, "--out", out),
    "export": lambda cache, run, out: ("export", cache, "--to", "npy", "--out", out),
    "check": lambda cache, run, out: ("check", cache),
    "info": lambda cache, run, out: ("info", cache, "--json"),
    "compare": lambda cache, run, out: ("compare", run, "--json"),
}
REPORTED = ("damaged", '"missing_shards": 1')
"""How `info` and `compare` tell; the unit of a ledger entry that cannot be read is missing."""


def test_no_command_uses_a_flipped_bit(
    prepared: Path,
    forge: Forge,
    tmp_path: Path,
    count: Callable[..., int],
    rng: random.Random,
    figure: Callable[..., None],
) -> None:
    cache, run = tmp_path / "c.zarr", tmp_path / "run"
    shutil.copytree(prepared / "whole.zarr", cache)
    shutil.copytree(prepared / "run", run)

    def result(name: str) -> tuple[Ended, object]:
        out = tmp_path / ("out.csv" if name == "predict" else "out")
        ended = forge(*COMMANDS[name](cache, run, out))
        made = (run_files if name == "train" else files)(out) if out.exists() else None
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        said = "" if name == "train" else ended.out
        return ended, (ended.code, said, made)

    expected = {name: result(name)[1] for name in COMMANDS}
    ends: Counter[str] = Counter()
    for _ in range(times := count(500, 10)):
        name = rng.choice(list(COMMANDS))
        path = any_file(rng.choice([cache, run]), rng)
        before = path.read_bytes()
        flip(path, rng)
        ended, got = result(name)
        if got == expected[name]:
            ends["the same result"] += 1
        elif ended.explained and path.name in ended.err:
            ends["refused, naming the file"] += 1
        elif ended.explained:
            ends["refused"] += 1
        elif any(word in ended.out + ended.err for word in REPORTED):
            ends["reported"] += 1
        else:
            ends["traceback" if ended.traceback else "silent"] += 1
            print(name, path, ended)
        path.write_bytes(before)
    figure("flips under commands", times, **{"silent": 0, "tracebacks": 0, **ends})
    assert not ends["silent"] + ends["traceback"]
