"""`featcache extract`: run a frozen model once over samples, and keep its tokens in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import (
    PLACE,
    cluster_options,
    device_option,
    echo,
    echo_aside,
    examples,
    json_option,
    plain,
)
from featcache.flags import OptionsCommand

if TYPE_CHECKING:
    from featcache.extraction.options import ExtractOptions
    from featcache.location import Location


class _ExtractCommand(OptionsCommand):
    @staticmethod
    def options() -> type[ExtractOptions]:
        from featcache.extraction.options import ExtractOptions

        return ExtractOptions


@click.command(
    "extract",
    cls=_ExtractCommand,
    epilog=examples(
        "featcache extract photos --model open_clip:ViT-B-32/laion2b_s34b_b79k --out photos.zarr",
        "featcache extract cells.csv --label-column type --model open_clip:glyph-clip --out cells.zarr",
    ),
)
@click.argument("source")
@click.option("--model", required=True, help="FAMILY:NAME, for example open_clip:ViT-B-32/laion2b_s34b_b79k.")
@click.option("--out", required=True, type=PLACE, help="The cache, for example CACHE.zarr.")
@device_option
@click.option("--dry-run", is_flag=True, help="Print shapes, bytes and estimated time; write no cache.")
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
@click.option(
    "--shard-of", metavar="K/N", help="Compute the K-th of N parts; other processes compute the others."
)
@click.option("--retry-failed", is_flag=True, help="Compute rows again that failed.")
@click.option(
    "--allow-removed", is_flag=True, help="Mark the rows of samples that SOURCE has no more, and go on."
)
@cluster_options
@json_option
def command(
    source: str,
    model: str,
    out: Location,
    *,
    dry_run: bool,
    overwrite: bool,
    shard_of: str | None,
    retry_failed: bool,
    allow_removed: bool,
    workers: int | None,
    scheduler: str | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a frozen model on SOURCE once and cache its tokens.

    SOURCE is a folder of images, a Parquet, WebDataset, HDF5, NumPy, CSV, JSONL or text file, a folder of
    these, or `digits`. Prints which classes it found before it begins. If the command is interrupted, repeat
    it to continue.
    """
    from featcache.cluster import ClusterOptions
    from featcache.extraction.growth import Changes
    from featcache.extraction.options import ExtractOptions
    from featcache.extraction.understood import Understood
    from featcache.progress import bar
    from featcache.stages import extract as stage

    told: dict[str, Any] = {}

    def tell(understood: Understood) -> None:
        told["understood"] = understood.as_dict()
        if not as_json:
            echo(understood.describe())
        for line in understood.warning_lines(command_line=True):
            echo_aside(line)

    if dry_run:
        given = {"--shard-of": shard_of, "--workers": workers, "--scheduler": scheduler}
        for flag in (flag for flag, value in given.items() if value is not None):
            raise click.UsageError(f"{flag} has no effect with --dry-run, which looks at the whole, here")
        dry = stage.dry_run(source, model, out, overwrite=overwrite, device=device, **options)
        tell(dry.understood)
        estimated = {"shapes": dry.shapes.model_dump(mode="json"), "splits": plain(dry.splits)}
        echo({**estimated, "free": dry.free, **told} if as_json else stage.describe_dry_run(dry))
        return
    asked = ExtractOptions.of(options)
    how: dict[str, Any] = {"overwrite": overwrite, "device": device, "shard_of": shard_of}
    how["cluster"] = ClusterOptions.parse({"workers": workers, "scheduler": scheduler}, where=None)
    how["changes"] = Changes(retry_failed, allow_removed)
    summaries = stage.run_extraction(
        source, model, out, asked, **how, progress=bar, tell=tell, say=echo_aside
    )
    lines = [stage.describe(name, summary) for name, summary in summaries.items()]
    content = {"cache": str(out), "splits": plain(summaries), **told}
    echo(content if as_json else "\n".join([*lines, f"cache: {out}"]))
