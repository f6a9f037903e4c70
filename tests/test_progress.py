"""Progress: bars on terminals, lines in logs, nothing where there is nothing to do."""

from __future__ import annotations

import io
import sys

import pytest

from featcache import progress
from featcache.progress import Lines, bar, human_time


class Screen(io.StringIO):
    """A stderr that says whether it is a terminal; its width is unknown."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_a_log_gets_a_line_each_interval_and_none_before() -> None:
    now, lines = [0.0], []
    shown = Lines("train", 1000, "steps", write=lines.append, every=60, clock=lambda: now[0])
    for now[0] in range(1, 200):
        shown.update(2)
    assert [line.partition(" steps")[0] for line in lines] == [
        "train: 120 of 1,000",
        "train: 240 of 1,000",
        "train: 360 of 1,000",
    ]
    assert lines[-1].endswith("2/s, about 5 min left")


def test_the_rate_is_that_of_the_last_interval() -> None:
    times, lines = iter([0.0, 60.0, 120.0]), []
    shown = Lines("x", 100, "samples", write=lines.append, every=60, clock=lambda: next(times))
    shown.update(60)
    shown.update(0)
    assert "1/s, about 40 s left" in lines[0]
    assert lines[1].endswith("60 of 100 samples, 0/s")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_stderr_shows(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with bar("nothing", 0) as shown:
        shown.update(0)
    assert screen.getvalue() == ""
    with bar("train", 4, "steps") as shown:
        shown.update(4)
    text = screen.getvalue()
    assert ("train: 4 of 4 steps" in text) != terminal
    assert ("train: 100%" in text and "4/4" in text) == terminal


def test_times_have_units_that_people_read() -> None:
    assert [human_time(seconds) for seconds in (59, 61, 6100, 10**6)] == [
        "59 s",
        "61 s",
        "1.7 h",
        "11.6 days",
    ]
