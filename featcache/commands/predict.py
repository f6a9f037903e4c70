"""`featcache predict`: predict the class of every sample of a cache, or of raw samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, device_option, echo, examples, json_option, plain, told

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "predict",
    epilog=examples(
        "featcache predict runs/first photos.zarr --out all.csv --sort unsure --in-place-links sorted",
        "featcache predict model new_photos --out predictions.csv",
    ),
)
@click.argument("run", type=PLACE)
@click.argument("data", type=PLACE, metavar="CACHE")
@click.option("--out", required=True, type=PLACE, help="The table; ends in .csv, .parquet or .jsonl.")
@click.option("--split", help="One split of the cache [default: all].")
@click.option("--probabilities", is_flag=True, help="Add a column p:CLASS for each class.")
@click.option("--coverage", type=float, help="Add sets of classes that hold the true one so often, as 0.9.")
@click.option(
    "--unsure-below", type=float, default=0.8, show_default=True, help="A lower confidence is unsure."
)
@click.option(
    "--sort",
    type=click.Choice(["cache", "unsure"]),
    default="cache",
    show_default=True,
    help="Order of the rows: as in CACHE, or the least sure first.",
)
@click.option("--in-place-links", type=PLACE, help="Fill this folder with links to the files, by class.")
@click.option("--copy-to", type=PLACE, help="Fill this folder with copies of the files, by class.")
@click.option("--unsure-apart", is_flag=True, help="Sort unsure files into a folder `unsure` of their own.")
@click.option("--source", help="Where the files are now [default: as recorded in CACHE].")
@click.option("--model", help="Where the frozen model of a package is [default: as recorded in it].")
@click.option("--trust", is_flag=True, help="Run the Python code that RUN names.")
@device_option
@json_option
def command(run: Location, data: Location, out: Location, *, as_json: bool, **options: Any) -> None:
    """Predict the class of every sample in CACHE with the finished RUN.

    CACHE must have the model, layer and tokens that RUN was trained on; it may be another cache. If RUN is a
    package, CACHE may be raw samples, such as a folder of images. The table has the columns split, id,
    prediction, confidence, label, second, second_confidence, unsure and novelty.
    """
    from featcache.stages import predict as stage

    with told():
        summaries = stage.predict(run, data, out, progress=True, **options)
    lines = [stage.describe(name, summary) for name, summary in summaries.items()]
    content: dict[str, Any] = {"predictions": str(out), "splits": plain(summaries)}
    lines.append(f"predictions: {out}")
    if folder := options["in_place_links"] or options["copy_to"]:
        content["sorted"] = str(folder)
        lines.append(f"sorted files: {folder}")
    echo(content if as_json else "\n".join(lines))
