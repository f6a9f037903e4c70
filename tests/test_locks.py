"""Locks: one holder at a time, named by process and host; free when it is dead, not because of its age."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.errors import CacheError, FeatcacheError
from featcache.locks import FileLock

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from featcache.locks import FileLock
from featcache.errors import CacheError

def missing(*arguments):
    raise OSError(errno.ENOSYS, "Function not implemented")

if sys.argv[2] == "without":
    fcntl.flock = missing
lock = FileLock(Path(sys.argv[1]), "writing", CacheError)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["with", "without"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems with locks, and without: there a marker stands for the lock."""

    def missing(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "without":
        monkeypatch.setattr(fcntl, "flock", missing)
    return str(request.param)


def _hold(path: Path, flock: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", HOLD, str(path), flock]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _refusal(path: Path) -> FeatcacheError:
    with pytest.raises(CacheError) as raised:
        FileLock(path, "writing", CacheError)
    return raised.value


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path: Path, flock: str) -> None:
    path = tmp_path / "c.lock"
    with _hold(path, flock) as process:
        os.utime(path, (0, 0))  # however old it is
        refused = _refusal(path)
        for name in (str(process.pid), socket.gethostname()):
            assert re.search(rf"\b{re.escape(name)}\b", str(refused.got))
        assert ("UTC" in str(refused.got)) == (flock == "with")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with FileLock(path, "writing", CacheError):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


def test_a_marker_of_another_machine_is_never_broken(
    tmp_path: Path, flock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.lock"
    path.write_text(f"{os.getpid()}\nelsewhere\n")
    os.utime(path, (0, 0))
    if flock == "with":  # a marker of another time does not matter where there are real locks
        with FileLock(path, "writing", CacheError):
            assert "elsewhere" not in path.read_text()
        assert not path.exists()
        return
    refused = _refusal(path)
    assert "elsewhere" in str(refused.got)
    assert str(path) in str(refused.hint)


def test_it_is_held_once_within_a_process_too(tmp_path: Path, flock: str) -> None:
    path = tmp_path / "new" / "c.lock"
    with FileLock(path, "writing", CacheError):
        assert str(os.getpid()) in str(_refusal(path).got)
    FileLock(path, "writing", CacheError).release()
    assert not path.exists()
