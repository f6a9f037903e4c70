"""Run commands in processes that need not import anything: the other end of forge.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).with_name("forge.py")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    peak: int
    stray: int
    out: str
    err: str
    changes: int = 0
    failed: str = ""

    @property
    def explained(self) -> bool:
        """True if it failed as a command should: with a sentence, and no traceback."""
        lines = self.err.strip().splitlines()
        return self.code == 1 and any(line.startswith("error: ") for line in lines) and not self.traceback

    @property
    def traceback(self) -> bool:
        """True if the user saw Python's."""
        return "Traceback" in self.err or "Exception ignored" in self.err


class Forge:
    """Runs commands in fresh processes that need not import anything."""

    def __init__(self, folder: Path, faults: Path | None) -> None:
        self._folder = folder
        preload = {"LD_PRELOAD": str(faults)} if faults else {}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | preload,
        )

    def __call__(
        self,
        *arguments: object,
        kill: float | None = None,
        fail: tuple[Path, int, int, bool] | None = None,
    ) -> Ended:
        """Run `featcache` with these arguments; SIGKILL after `kill` seconds; `fail` as in forge.py."""
        job = {"arguments": [str(a) for a in arguments], "output": str(self._folder), "kill": kill}
        job["fail"] = [str(fail[0]), *fail[1:]] if fail else None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forge has died"
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Ended(**json.loads(answer), out=out, err=err)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
