"""Commands on a disk that fails: each change of a file once, and all of them from some moment on."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.commands import begin, commands
from tests.torture.processes import Forge

pytestmark = pytest.mark.torture
FAULTS = {
    "ENOSPC once": (errno.ENOSPC, False),
    "EIO once": (errno.EIO, False),
    "EDQUOT once": (errno.EDQUOT, False),
    "ENOSPC from then on": (errno.ENOSPC, True),
}
NAMES = (
    "extract",
    "extract --overwrite",
    "train",
    "label",
    "export --to h5",
    "export --to npy",
    "import",
    "predict",
    "repair",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_failed_write_is_a_sentence_and_the_next_run_goes_on(
    prepared: Path,
    forge: Forge,
    tmp_path: Path,
    scale: float,
    rng: random.Random,
    figure: Callable[..., None],
    name: str,
) -> None:
    command, out, whole = commands(prepared)[name], tmp_path / "w" / "out", tmp_path / "whole" / "out"
    for path in (out, whole):
        path.parent.mkdir()
        begin(command, path)
    counted = forge(*command.arguments(whole), fail=(whole.parent, 0, 0, False))
    assert counted.code == 0, counted.err
    assert counted.changes > 0
    expected, unharmed = command.content(whole), 0
    chosen = range(1, counted.changes + 1)
    if scale < 1:
        chosen = sorted(rng.sample(chosen, max(2, round(scale * counted.changes))))
    for nth in chosen:
        for kind, (code, forever) in FAULTS.items():
            ended = forge(*command.arguments(out), fail=(out.parent, nth, code, forever))
            case = f"{kind}, change {nth}: {ended.failed}\n{ended.err}"
            if ended.code == 0:  # done without what failed, such as a note for speed
                unharmed += 1
                assert not ended.traceback, case
            else:
                assert ended.explained, case
                ended = forge(*command.arguments(out))
                assert ended.code == 0, f"{case}\nand then\n{ended.err}"
            assert command.content(out) == expected, case
            assert [path.name for path in out.parent.iterdir()] == ["out"], case
            begin(command, out)
    times = len(chosen) * len(FAULTS)
    figure(f"`{name}`: writes that fail", times, no_error=unharmed, tracebacks=0, rows_lost=0)
