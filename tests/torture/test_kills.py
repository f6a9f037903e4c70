"""Commands that are killed at random moments, as by `kill -9` or for memory, and then repeated."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.commands import begin, commands
from tests.torture.processes import Forge

pytestmark = pytest.mark.torture
KILLS = {
    "extract": 500,
    "extract --num-workers 2": 20,
    "extract --overwrite": 50,
    "train": 100,
    "label": 50,
    "export --to h5": 20,
    "export --to npy": 20,
    "import": 50,
    "predict": 20,
    "repair": 50,
}


@pytest.mark.parametrize("name", KILLS)
def test_killed_at_random_moments_it_ends_as_if_it_were_not(
    prepared: Path,
    forge: Forge,
    tmp_path: Path,
    count: Callable[..., int],
    rng: random.Random,
    figure: Callable[..., None],
    name: str,
) -> None:
    command, kills = commands(prepared)[name], count(KILLS[name])
    whole, out = tmp_path / "whole" / "out", tmp_path / "k" / "out"
    for path in (whole, out):
        path.parent.mkdir()
        begin(command, path)
    before = command.content(out) if command.before else None
    clean = forge(*command.arguments(whole))
    assert clean.code == 0, clean.err
    expected, killed, in_the_middle, seconds = command.content(whole), 0, 0, [clean.seconds]
    while killed < kills:
        ended = forge(*command.arguments(out), kill=rng.uniform(0, 1.1 * statistics.median(seconds)))
        assert ended.stray == 0
        if ended.code == -9:
            killed += 1
            there = command.content(out) if out.exists() else None
            in_the_middle += there not in (before, expected) or len(list(out.parent.iterdir())) > 1
            if name == "extract --overwrite":  # one whole cache at any time, beside the note of its exchange
                assert isinstance(there, dict)
                there.pop("replaced", None)
                assert there in (before, expected)
            if killed < kills and rng.random() < 0.5:
                continue  # killed once more, where it stands
            ended = forge(*command.arguments(out))
            seconds.append(ended.seconds)
        assert ended.code == 0, ended.err
        assert not ended.traceback
        assert command.content(out) == expected
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        begin(command, out)
    figure(f"`{name}` killed", kills, in_the_middle=in_the_middle, other_content=0, leftovers=0)
