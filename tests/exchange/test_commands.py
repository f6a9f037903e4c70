"""`featcache import` and `featcache export` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from click.testing import Result

Featcache = Callable[..., Result]


def test_import_says_what_it_took_for_what(tmp_path: Path, made: ModuleType, featcache: Featcache) -> None:
    path = made.hdf5(tmp_path / "mine", {"emb": made.pooled(), "class": made.LABELS, "key": made.IDS})
    out = tmp_path / "c.zarr"
    done = featcache("import", path, "--model", "mine", "--out", out)
    for fact in (
        "mine (said, not verified)",
        "`emb`",
        "`class`",
        "`key`",
        "30 rows, 30 labelled",
        "dog, the",
    ):
        assert fact in done.output
    again = json.loads(featcache("import", path, "--model", "mine", "--out", out, "--json").stdout)
    assert (again["arrays"]["pooled"], again["splits"]["train"]["written"]) == ("emb", 0)
    assert "mine (said, not verified)" in featcache("info", out).output


def test_flags_in_messages_are_those_of_the_command_line(
    tmp_path: Path, made: ModuleType, featcache: Featcache
) -> None:
    path = made.npz(tmp_path / "mine", {"one": made.pooled(), "two": made.pooled()})
    done = featcache("import", path, "--out", tmp_path / "c.zarr", code=1)
    assert "--pooled" in done.stderr
    assert "Traceback" not in done.stderr
    done = featcache("import", path, "--pooled", "one", "--out", tmp_path / "c.zarr")
    assert "name it by --model" in done.output


def test_export_tells_where_it_wrote(tmp_path: Path, made: ModuleType, featcache: Featcache) -> None:
    path = made.npz(tmp_path / "mine", {"emb": made.pooled()})
    featcache("import", path, "--out", tmp_path / "c.zarr")
    done = featcache("export", tmp_path / "c.zarr", "--to", "npy", "--out", tmp_path / "exported")
    assert str(tmp_path / "exported") in done.output
    assert (
        featcache("export", tmp_path / "c.zarr", "--to", "h5", "--out", path, code=1).stderr.count("--out")
        == 1
    )
    back = json.loads(
        featcache("import", tmp_path / "exported", "--out", tmp_path / "back.zarr", "--json").stdout
    )
    assert back["splits"]["train"]["rows"] == made.ROWS
