"""A cache against a model of it in memory: written, killed, labelled, replaced, damaged, verified, mended."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.repair import losses_of, restore_metadata, take_off
from featcache.cache.spec import LayoutSpec, SplitSpec
from featcache.cache.storage import Folder, held
from featcache.cache.verify import Verification, verify_cache
from featcache.cache.writer import CacheWriter
from featcache.errors import FeatcacheError
from tests.cache import synthetic

pytestmark = pytest.mark.torture
ROWS = 9
IDS = [f"train/{row:04}.png" for row in range(ROWS)]
SPECS = {dtype: synthetic.spec(dtype=dtype) for dtype in ("float32", "float16")}
BY_HAND = ("labels", "class_text", "train/sample_id", "train/status/ledger/rows.json")
"""What `repair` takes from the source, which is not there."""
anything = st.integers(0, 2**32)


class Cache(RuleBasedStateMachine):
    """What must be there: a spec, units by number, labels, and the bytes of damaged files before."""

    @initialize(dtype=st.sampled_from(list(SPECS)))
    def begin(self, dtype: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "c.zarr"
        self.dtype, self.committed, self.labels = dtype, set[int](), [row % 3 for row in range(ROWS)]
        self.damaged: dict[Path, bytes] = {}
        self._write(dtype, 0)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _write(self, dtype: str, units: int, overwrite: bool = False) -> None:
        layout = LayoutSpec(shard_size="4")
        with CacheWriter(self.path, SPECS[dtype], layout=layout, overwrite=overwrite) as writer:
            split = writer.split("train", SplitSpec(content="made up", rows=ROWS), IDS, synthetic.SHAPES)
            writer.label(LabelTable(synthetic.CLASSES, {"train": np.array(self.labels)}))
            writer.class_text(
                np.eye(3, synthetic.SHAPES.pooled, dtype=np.float32), synthetic.CLASSES, ("{}",)
            )
            for unit in split.missing()[:units]:
                with split.begin(unit) as out:
                    out.append(**synthetic.batch(unit.view, unit.start, unit.stop))
                    out.commit()

    def _killed(self, event: int, do: Callable[[], Any]) -> None:
        """Do it in a fork that is killed before the `event`-th file that it opens, names or removes."""
        if (child := os.fork()) == 0:
            synthetic.kill_at(event, self.path)
            try:
                do()
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -9)

    def _written(self) -> set[int]:
        split = CacheReader.open(self.path).split("train")
        missing = split.missing()
        return {number for number, unit in enumerate(split.units) if unit not in missing}

    @rule(units=st.integers(0, 4))
    @precondition(lambda self: not self.damaged)
    def write(self, units: int) -> None:
        self._write(self.dtype, units)
        now = self._written()
        assert len(now) == min(len(self.committed) + units, 9)
        assert now >= self.committed
        self.committed = now

    @rule(units=st.integers(1, 4), event=st.integers(1, 150))
    @precondition(lambda self: not self.damaged)
    def write_and_be_killed(self, units: int, event: int) -> None:
        self._killed(event, lambda: self._write(self.dtype, units))
        now = self._written()
        assert now >= self.committed, "a kill has lost a unit"
        self.committed = now

    @rule(label=st.integers(0, 2), event=st.one_of(st.none(), st.integers(1, 40)))
    @precondition(lambda self: not self.damaged)
    def label(self, label: int, event: int | None) -> None:
        before, self.labels = self.labels, [label] * ROWS
        if event is None:
            self._write(self.dtype, 0)
            return
        self._killed(event, lambda: self._write(self.dtype, 0))
        now = self._labels()
        assert now in (before, self.labels), "neither the old labels nor the new ones"
        self.labels = now

    @rule(dtype=st.sampled_from(list(SPECS)), event=st.one_of(st.none(), st.integers(1, 800)))
    @precondition(lambda self: not self.damaged)
    def replace(self, dtype: str, event: int | None) -> None:
        if event is None:
            self._write(dtype, 9, overwrite=True)
        else:
            self._killed(event, lambda: self._write(dtype, 9, overwrite=True))
            if CacheReader.open(self.path).spec != SPECS[dtype] or len(self._written()) < 9:
                return  # the old one
        self.dtype, self.committed = dtype, set(range(9))

    @rule(file=anything, place=anything, bit=st.integers(0, 7))
    def flip(self, file: int, place: int, bit: int) -> None:
        # What a kill left belongs to nobody.
        known = [path for name in self._verified().files for path in _files(self.path / name)]
        files = sorted(path for path in known if path not in self.damaged)
        if not files:
            return
        path = files[file % len(files)]
        data = bytearray(path.read_bytes())
        self.damaged[path] = bytes(data)
        data[place % len(data)] ^= 1 << bit
        path.write_bytes(data)

    @rule()
    @precondition(lambda self: self.damaged)
    def verify_and_mend(self) -> None:
        storage = Folder(self.path)
        found = {damage.file for damage in self._verified().damages}
        flipped = {str(path.relative_to(self.path)) for path in self.damaged}
        # Without its description, what lies below it cannot be looked at; the next round finds it.
        assert found, f"damage is not found: {flipped}"
        if not any(name.endswith("zarr.json") or "ledger" in name for name in flipped):
            assert all(any(Path(name).is_relative_to(file) for file in found) for name in flipped)
        for path, data in self.damaged.items():
            if str(path.relative_to(self.path)).startswith(BY_HAND):
                path.write_bytes(data)
        with held(storage.lock()):
            restore_metadata(storage)
            take_off(storage, losses_of(storage, self._verified().damages))
        self._write(self.dtype, len(self.committed - self._written()))
        for path, data in self.damaged.items():
            assert path.read_bytes() == data, f"{path} is not mended to the byte"
        assert self._written() == self.committed
        self.damaged = {}

    def _verified(self) -> Verification:
        return verify_cache(Folder(self.path))

    def _labels(self) -> list[int]:
        return [int(label) for label in CacheReader.open(self.path).labels.by_split["train"]]

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        """With damage, an error is as good as the right values; other values never are."""
        try:
            assert self._labels() == self.labels
            split = CacheReader.open(self.path).split("train")
            for number in self.committed:
                unit, rows = split.units[number], np.arange(ROWS)
                expected = synthetic.batch(unit.view, unit.start, unit.stop)
                for name, values in (("tokens", expected["tokens"][-1]), ("pooled", expected["pooled"])):
                    array = split.array(name)
                    got = array.gather(rows[unit.start : unit.stop], unit.view)
                    array.finish_checks()
                    readable = [row - unit.start for row in range(unit.start, unit.stop) if row != 3]
                    assert np.array_equal(got[readable], values.astype(got.dtype)[readable])
        except FeatcacheError:
            assert self.damaged
        else:
            assert self.damaged or not self._verified().damages


def _files(path: Path) -> list[Path]:
    """Return a file, or those of a folder such as a table of labels, which are checked together."""
    below = [path] if path.is_file() else path.rglob("*")
    return [file for file in below if file.is_file() and file.stat().st_size]


def test_no_walk_through_its_states_loses_or_changes_anything(
    count: Callable[..., int], figure: Callable[..., None]
) -> None:
    walks = count(1_000, 10)
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_machine(
        Cache,
        settings=settings(
            max_examples=walks,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # where a kill hits depends on threads, so nothing can be made smaller
            suppress_health_check=checks,
        ),
    )
    figure("walks of 20 steps through the states of a cache", walks, lost=0, other_values=0)
