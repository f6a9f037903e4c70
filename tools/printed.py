"""Draw printed characters for a replay cache of glyph-clip: `python -m tools.printed data/printed`.

They replace the training data of glyph-clip, but are drawn with other fonts: those that come with matplotlib.
Every character of every font is distorted as in its training. Two fonts are the test split.
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib
import numpy as np
import torch
from PIL import Image

from tools.glyph_clip import glyphs
from tools.glyph_clip.augment import pictures

FAMILIES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
HELD_OUT = ("DejaVuSansMono-Oblique", "STIXGeneralBol")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--draws", type=click.IntRange(1), default=2, show_default=True, help="Pictures of each shape.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(out: Path, draws: int, seed: int) -> None:
    """Write OUT/SPLIT/CHARACTER/NUMBER.png."""
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts/ttf").glob("*.ttf"))
    fonts = [file for file in fonts if file.stem.startswith(FAMILIES) and "Display" not in file.stem]
    generator = torch.Generator().manual_seed(seed)
    names = [names[0].replace(" ", "_") for names in glyphs.NAMES.values()]
    for split in ("train", "test"):
        atlas = glyphs.atlas(glyphs.load([f for f in fonts if (f.stem in HELD_OUT) is (split == "test")]))
        for draw in range(draws):
            values = pictures(atlas.ink, generator).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
            for row, (label, image) in enumerate(zip(atlas.label.tolist(), values, strict=True)):
                _write(out / split / names[label] / f"{draw}-{row:05}.png", image)
        click.echo(f"{split}: {draws * len(atlas.label)} pictures of {len(names)} characters")


def _write(path: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


if __name__ == "__main__":
    main()
