"""What must not change by making things faster: the bytes of a cache, and the losses of a training.

After a change that is meant to alter them: `python -m pytest tests/golden --golden-write`, and say why.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
STORED = Path(__file__).with_name("golden.json")
OPTIONS = {
    "supervised": {},
    "twinturbo": {"objective": {"w_y": 0.0, "w_critic": 1.0, "critic_penalty": 0.0, "w_kz": 0.1}},
    "finessl": {},
    "fixmatch": {},
}
COMMON: dict[str, Any] = {
    "projector": {"heads": 2},
    "optim": {"steps": 30, "batch_size": 6},
    "log": {"every": 3},
}


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """The stored value of that name; with --golden-write, first stores the one that is given."""

    def expected(name: str, value: Any) -> Any:
        stored = json.loads(STORED.read_text())
        if request.config.getoption("--golden-write"):
            stored[name] = value
            STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        return stored[name]

    return expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_the_bytes_of_a_cache(make_cache, golden, tmp_path: Path, dtype: str) -> None:
    cache = make_cache(tmp_path / "c.zarr", weak=1, strong=1, dtype=dtype, mask=True, text=True)
    digest = hashlib.sha256()
    # The golden bytes are those of format 1, in which labels were arrays of the splits.
    files = {
        re.sub(r"^labels/\w+/(\w+)/", r"\1/label/", str(f.relative_to(cache))): f
        for f in cache.glob("**/c/**/*")
    }
    for name, file in sorted(files.items(), key=lambda item: Path(item[0])):
        if file.is_file():
            digest.update(name.encode() + file.read_bytes())
    assert digest.hexdigest() == golden(f"cache {dtype}", digest.hexdigest())


@pytest.mark.parametrize("objective", OPTIONS)
def test_the_losses_of_a_training(make_cache, golden, tmp_path: Path, objective: str) -> None:
    cache = make_cache(tmp_path / "c.zarr", weak=2, strong=2)
    request = TrainRequest(cache, objective, 0, labels_per_class=3, options=COMMON | OPTIONS[objective])
    run_training(request, tmp_path / "run", device="cpu")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses == pytest.approx(golden(f"losses {objective}", losses), rel=1e-3, abs=1e-5)
