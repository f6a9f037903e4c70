"""Code that only a file names is not run unless the user says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import featcache as fc
from featcache.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
Command = Callable[..., Result]
SHORT = ("--set", "cv=off", "--set", "optim.steps=3")
EVIL = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from elsewhere, with code in it that leaves a mark when it is run."""
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)


@pytest.mark.parametrize(
    ("model", "objective"),
    [("python:evil.py:build", "linear"), ("open_clip:glyph-clip", "python:evil.py")],
)
def test_a_pipeline(featcache: Command, model: str, objective: str) -> None:
    Path("s.toml").write_text(
        f'[extract.a]\nsource = "digits"\nmodel = "{model}"\nlimit = 8\n'
        f'[train]\nobjectives = ["{objective}"]\n'
    )
    refused = featcache("run", "s.toml", code=1)
    assert "--trust" in refused.output
    assert not Path("ran").exists()
    assert not Path("runs").exists()
    featcache("run", "s.toml", "--trust", code=1)  # it is run, and is no model or objective
    assert Path("ran").exists()


def test_a_configuration_and_a_run(
    featcache: Command, make_cache: Callable[..., Path], tmp_path: Path, reseal: Callable[[str], bytes]
) -> None:
    cache = make_cache(tmp_path / "c.zarr")
    featcache("train", cache, "--objective", "linear", *SHORT, "--out", "run")
    config = json.loads(Path("run/config.json").read_text())
    absolute = f"python:{tmp_path / 'evil.py'}"
    Path("config.json").write_bytes(reseal(json.dumps(config | {"objective": absolute})))
    again = ("train", cache, "--config", "config.json", "--out", "again")
    assert "--trust" in featcache(*again, code=1).output
    assert not Path("ran").exists()
    featcache(*again, "--objective", "linear")  # named by the user
    assert not Path("ran").exists()


def test_a_run_with_its_own_objective(
    featcache: Command, make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path / "c.zarr")
    Path("mine.py").write_text("from featcache.objectives.linear import objective\n" + EVIL)
    featcache("train", cache, "--objective", "python:mine.py", *SHORT, "--out", "run")
    Path("ran").unlink(missing_ok=True)
    predict = ("predict", "run", cache, "--out", "p.csv")
    assert "--trust" in featcache(*predict, code=1).output
    assert not Path("p.csv").exists()
    assert "--trust" in featcache("suggest", "run", code=1).output
    with pytest.raises(ConfigError, match="trust=True"):
        fc.Run.open("run").predict(cache, device="cpu")
    assert not Path("ran").exists()
    assert len(fc.Run.open("run", trust=True).predict(cache, device="cpu").label)
    featcache(*predict, "--trust")
    assert Path("p.csv").exists()
