"""A script without a guard: reading processes do not run it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import featcache as fc
import numpy as np
from PIL import Image

print("the script runs", flush=True)
class Own:  # a transform that only this script defines
    def __call__(self, image):
        import torch
        return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255

options = {"num_workers": 2, "progress": False, "limit": 20}
fc.extract("digits", "open_clip:glyph-clip", "a.zarr", overwrite=True, tokens="cls", **options)
fc.extract("digits", "open_clip:glyph-clip", "b.zarr", tokens="cls", **options)
print(fc.Cache.open("a.zarr")["train"].complete(), fc.Cache.open("b.zarr")["train"].complete())

from featcache.extraction.feed import ViewDataset, feed
from featcache.extraction.view_transform import ViewTransform
from featcache.encoders.base import Keyed
from featcache.specs import ViewSpec
import torch
source = fc.open_source("digits")["train"]
transform = ViewTransform(Keyed("image", Own()), "image", ViewSpec())
dataset = ViewDataset(source, transform, ("eval",), [range(0, 4), range(4, 8)])
print([batch.inputs["image"].shape[0] for batch in feed(dataset, 2, torch.device("cpu"))])
"""


def test_reading_processes_do_not_run_the_script_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script runs", "True True", "[4, 4]"]
