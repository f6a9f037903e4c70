"""Refuse to test on what was trained on: the same sample among the labelled training and the test rows."""

from __future__ import annotations

import numpy as np

from featcache.errors import TrainError, option
from featcache.training.data import Draw
from featcache.training.options import DataOptions
from featcache.training.outputs import pooled

SHOWN = 5
"""Most pairs that a message names."""


def refuse_leaks(draw: Draw, options: DataOptions) -> None:
    """Raise TrainError, naming the pairs, if a labelled training row is the same sample as a test row.

    The same means embeddings that are equal up to rounding. Does nothing with the option `allow_leaks`.
    """
    data, known = draw.data, draw.known
    if options.allow_leaks or data.test is None:
        return
    tested = np.flatnonzero(data.testable & (data.test_labels >= 0))
    found = [
        (known.rows[row], tested[twin])
        for row, twin in data.test_twins.of(pooled(known.store, known.rows).numpy())
    ]
    if not found:
        return
    names = [f"{data.train.ids[a]} = {data.test.ids[b]}" for a, b in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise TrainError(
        f"the labelled training samples and the test split share {len(found)} "
        f"sample{'s' if len(found) > 1 else ''}",
        got=", ".join(names) + more,
        expected="test samples that the training has not seen, because the accuracy counts the others too",
        hint="take them out of one of the two (`featcache check CACHE` lists them all), or accept them with "
        f"{option('data.allow_leaks', True)}",
    )
