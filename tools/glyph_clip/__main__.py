"""Make glyph-clip: `python -m tools.glyph_clip` writes the model folder that the wheel carries.

An hour on two CPU cores, a few minutes on a GPU; it can be interrupted, and goes on where it was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from pathlib import Path

import click
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save

from featcache.encoders.open_clip import GLYPH_CLIP
from featcache.files import write_atomic
from tools.glyph_clip import fonts, glyphs
from tools.glyph_clip.train import MEAN, MODEL, STD, Settings, train, zero_shot

HOME = Path(__file__).parents[2]
_HELD_OUT_EVERY = 10
_SMOKE_STEPS = 30


@click.command()
@click.option("--out", type=Path, help="The model folder [default: the one of the package; WORK/smoke].")
@click.option("--work", type=Path, default=HOME / "build/glyph-clip", help="Fonts and the checkpoint.")
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--amp/--no-amp", default=True, help="bfloat16 matrix products (the default) or float32.")
@click.option("--smoke", is_flag=True, help="Half a minute, one font that Pillow brings, no network.")
def main(out: Path | None, work: Path, steps: int, batch: int, seed: int, amp: bool, smoke: bool) -> None:
    """Fetch the fonts, render, train and write the model folder."""
    started = time.monotonic()
    out = out or (work / "smoke" if smoke else GLYPH_CLIP)
    if smoke:
        steps, batch = min(steps, _SMOKE_STEPS), min(batch, 64)
        train_on = held_out = glyphs.atlas(glyphs.builtin())
    else:
        files = fonts.fetch(work / "fonts")
        held_out = glyphs.atlas(glyphs.load(files[::_HELD_OUT_EVERY]))
        train_on = glyphs.atlas(glyphs.load([f for n, f in enumerate(files) if n % _HELD_OUT_EVERY]))
    click.echo(f"{len(train_on.label)} shapes to train on, {len(held_out.label)} of other fonts held out")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = letters(out / "bpe.txt.gz")
    settings = Settings(steps, batch, seed=seed, amp=amp)
    name = f"{'smoke-' if smoke else ''}{steps}x{batch}-seed={seed}-{'bfloat16' if amp else 'float32'}.pt"
    model = train(train_on, held_out, tokenizer, settings, work / name)
    digest = export(model, out)
    click.echo(f"{out}: sha256 {digest}, {time.monotonic() - started:.0f} s")
    for pictures, strength in (("plain print", 0.0), ("as hard as in training", 1.0)):
        digits, alike, characters = zero_shot(model, held_out, tokenizer, strength)
        click.echo(
            f"held-out fonts, {pictures}: {digits:.1%} of digits, {characters:.1%} of characters, "
            f"{alike:.1%} with capital and small letters alike"
        )


def letters(path: Path) -> SimpleTokenizer:
    """open_clip's tokenizer with no merges, so that its tokens are single characters; written to `path`."""
    path.write_bytes(gzip.compress(b"#version: 0.2", mtime=0))
    return SimpleTokenizer(str(path), context_length=MODEL["text_cfg"]["context_length"])


def export(model: CLIP, out: Path) -> str:
    """Write open_clip's configuration and the weights as float16; returns the SHA-256 of the weights."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": MODEL, "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    content = save(weights)
    write_atomic(out / "open_clip_model.safetensors", content)
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
