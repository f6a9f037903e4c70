"""Which rows make a batch, and what the walk does when writing goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache.layout import units
from featcache.extraction.walk import Clock, plan_batches

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]


@given(st.data(), st.integers(1, 60), st.integers(1, 4), st.integers(1, 20), st.integers(1, 50))
def test_batches_cover_what_is_missing_and_never_depend_on_what_is_there(
    data: st.DataObject, rows: int, views: int, block: int, batch_size: int
) -> None:
    every = list(units(rows, views, block))
    missing = [unit for unit in every if data.draw(st.booleans())]
    whole = list(plan_batches(every, views, batch_size))
    batches = list(plan_batches(missing, views, batch_size))
    assert [row for batch in whole for row in batch] == list(range(rows))
    assert [batch for batch in whole if batch in batches] == batches
    assert {row for batch in batches for row in batch} == {r for u in missing for r in range(u.start, u.stop)}
    for batch in batches:
        assert len(batch) * views <= max(batch_size, views)
        assert batch.start // block == (batch.stop - 1) // block


@pytest.mark.parametrize(
    ("clock", "stage"),
    [
        (Clock(read=9, wait=3, forward=2, write=8, stall=1), "reading and preprocessing"),
        (Clock(read=9, wait=2, forward=9, write=8, stall=1), "reading and preprocessing"),
        (Clock(read=9, wait=0.3, forward=9, write=8, stall=0.3), "the forward pass"),
        (Clock(first=5, read=9, wait=5.3, forward=9, write=8, stall=0.3), "the forward pass"),
        (Clock(read=9, wait=1, forward=2, write=8, stall=3), "writing"),
    ],
)
def test_the_pace_is_set_by_what_the_others_waited_for(clock: Clock, stage: str) -> None:
    assert clock.bound_by() == stage


def test_an_error_of_the_writer_stops_the_walk_and_keeps_what_is_committed(
    photos: Path,
    frozen: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    summaries_of: Callable[..., dict[str, Any]],
) -> None:
    from featcache.cache.reader import CacheReader
    from featcache.cache.writer import UnitWriter

    commits = []

    def commit(unit: UnitWriter, real: Callable[[UnitWriter], None] = UnitWriter.commit) -> None:
        commits.append(unit)
        if len(commits) == 3:
            raise ConnectionResetError("the disk was pulled out")
        real(unit)

    monkeypatch.setattr(UnitWriter, "commit", commit)
    request: dict[str, Any] = {"source": photos, "model": frozen("tiny"), "out": tmp_path / "c.zarr"}
    request |= {"shard_size": "2", "batch_size": 1, "num_workers": 0}
    with pytest.raises(ConnectionResetError, match="pulled out"):
        summaries_of(**request)
    split = CacheReader.open(request["out"]).split("train")
    assert [unit.block for unit in split.missing()] == [2, 3, 4]
    assert not list(request["out"].rglob("*.partial"))
    monkeypatch.undo()
    assert summaries_of(**request)["train"].computed == 6
