"""The plot of a study: every objective is drawn, and the same rows give the same picture."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featcache.report import plot
from featcache.report.table import Row


def row(objective, budget, accuracy, cache="digits", unit="per class"):
    return Row(
        cache,
        budget,
        unit,
        objective,
        accuracy,
        nll=1.0,
        ece=0.1,
        nll_scaled=1.0,
        ece_scaled=0.1,
        seconds=1.0,
        against={},
    )


ROWS = [
    row("linear", 1, (50.0, 54.0)),
    row("linear", 4, (70.0, 71.0)),
    row("twinturbo", 4, (90.0, 91.0)),
    row("twinturbo", 1, (80.0, 84.0)),
]


def pixels(rows):
    return np.asarray(Image.open(io.BytesIO(plot.png(rows))).convert("RGB")).astype(int)


def test_the_same_rows_give_the_same_bytes():
    assert plot.png(ROWS) == plot.png(ROWS)


@pytest.mark.parametrize("which", range(4))
def test_every_row_is_seen(which):
    moved = [replace(r, accuracy=(60.0, 62.0)) if i == which else r for i, r in enumerate(ROWS)]
    assert (pixels(moved) != pixels(ROWS)).any()


def test_a_panel_for_each_cache_and_way_of_counting():
    one = pixels(ROWS).shape
    other = [*ROWS, row("linear", 24, (60.0,), unit="in all"), row("linear", 1, (9.0,), cache="other")]
    assert pixels(other).shape == (one[0], 3 * one[1], 3)


def test_one_draw_and_many_objectives():
    rows = [row(f"objective{n}", 2**k, (float(10 * n + k),)) for n in range(9) for k in range(2)]
    colours = {tuple(c) for c in pixels(rows).reshape(-1, 3).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x99, 0x99, 0x99)} <= colours
