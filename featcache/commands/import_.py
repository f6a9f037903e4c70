"""`featcache import`: bring embeddings that were made elsewhere into a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, examples, json_option
from featcache.flags import OptionsCommand

if TYPE_CHECKING:
    from featcache.exchange.options import ImportOptions
    from featcache.location import Location


class _ImportCommand(OptionsCommand):
    @staticmethod
    def options() -> type[ImportOptions]:
        from featcache.exchange.options import ImportOptions

        return ImportOptions


@click.command(
    "import",
    cls=_ImportCommand,
    epilog=examples(
        'featcache import embeddings.npz --model "UNI2-h" --out mine.zarr',
        "featcache import slides/h5_files --max-tokens 1024 --out slides.zarr",
    ),
)
@click.argument("path", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The cache, for example CACHE.zarr.")
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
@json_option
def command(path: Location, out: Location, *, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Bring embeddings from PATH into a cache, without a model.

    PATH is a file, a folder or a pattern: .npy, .npz, HDF5 (also one file for each slide, as CLAM and TRIDENT
    write), .pt, .safetensors, .parquet, a folder that `datasets` saved, Zarr, or an export of featcache.
    If the command is interrupted, repeat it to continue.
    """
    from featcache.exchange.options import ImportOptions
    from featcache.progress import bar
    from featcache.stages import import_ as stage

    summary = stage.run_import(path, out, ImportOptions.of(options), overwrite=overwrite, progress=bar)
    content = {"cache": str(out), **stage.as_dict(summary)}
    echo(content if as_json else f"{stage.describe(summary)}\ncache: {out}")
