"""The command line: parse, one stage call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featcache import __version__
from featcache.flags import OptionsCommand

if TYPE_CHECKING:
    from featcache.extraction.estimate import Estimate
    from featcache.extraction.options import ExtractOptions
    from featcache.stages.extract import SplitSummary


class _Group(click.Group):
    """Prints a FeatcacheError without a traceback and exits with 1; an interrupted command exits with 130."""

    def invoke(self, ctx: click.Context) -> Any:
        from featcache.errors import FeatcacheError

        try:
            return super().invoke(ctx)
        except FeatcacheError as error:
            click.echo(f"error: {error.text(command_line=True)}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "interrupted: what is written stays; the same command (train: with --resume) goes on",
                err=True,
            )
            ctx.exit(130)


class _ExtractCommand(OptionsCommand):
    @staticmethod
    def options() -> type[ExtractOptions]:
        from featcache.extraction.options import ExtractOptions

        return ExtractOptions


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Run a frozen foundation model once, keep its token embeddings, adapt from the cache."""


@main.command(cls=_ExtractCommand)
@click.argument("source")
@click.option("--model", required=True, help="FAMILY:NAME, for example open_clip:ViT-B-32/laion2b_s34b_b79k.")
@click.option("--out", required=True, type=click.Path(), help="The cache, for example CACHE.zarr.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dry-run", is_flag=True, help="Print shape, bytes and estimated time; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
def extract(
    source: str, model: str, out: str, dry_run: bool, overwrite: bool, device: str, **options: Any
) -> None:
    """Run a frozen model over SOURCE once and keep its tokens.

    SOURCE is a folder of images, a Parquet, WebDataset, HDF5, NumPy, CSV, JSONL or text file, or `digits`.
    A rerun of the same command continues where the last one stopped.
    """
    from featcache.extraction.options import ExtractOptions
    from featcache.progress import bar
    from featcache.stages import extract as stage

    if dry_run:
        shapes, estimates = stage.dry_run(source, model, out, overwrite=overwrite, device=device, **options)
        for array in shapes.layers:
            click.echo(
                f"tokens of layer {array.layer}: {array.tokens} x {array.dim}, pooled: {shapes.pooled}"
            )
        for name, estimate in estimates.items():
            click.echo(_estimate_line(name, estimate))
        return
    asked = ExtractOptions.of(options)
    summaries = stage.run_extraction(
        source, model, out, asked, overwrite=overwrite, device=device, progress=bar
    )
    for name, summary in summaries.items():
        click.echo(_summary_text(name, summary))
    click.echo(f"cache: {out}")


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--objective", required=True, help="A method such as twinturbo; the README lists them all.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run directory.")
@click.option("--labels-per-class", type=click.IntRange(1), help="Labels to use of each class.")
@click.option("--num-labels", type=click.IntRange(1), help="Labels to use in all.")
@click.option(
    "--seed", default=0, show_default=True, help="Seeds the label draw, the order and the training."
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option, for example optim.steps=500 or objective.w_ent=0.1.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
def train(cache: Path, out: Path, pairs: tuple[str, ...], device: str, resume: bool, **request: Any) -> None:
    """Train a projector from CACHE with a few labels, and test it."""
    from featcache.config import parse_overrides
    from featcache.stages import train as stage

    result = stage.run_training(
        stage.TrainRequest(cache, options=parse_overrides(pairs), **request),
        out,
        device=device,
        resume=resume,
        say=_say_if_terminal(),
    )
    test = result["test"]
    click.echo(
        f"{result['objective']}, {result['num_labels']} labels, seed {result['seed']}: "
        f"accuracy {100 * test['accuracy']:.2f} %, NLL {test['nll']:.3f}, ECE {test['ece']:.3f} "
        f"on {test['samples']} test samples, {result['seconds']:.1f} s"
    )
    click.echo(f"run: {out}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cache", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The table, for example predictions.csv."
)
@click.option("--split", help="One split of the cache [default: all].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def predict(run: Path, cache: Path, out: Path, split: str | None, device: str) -> None:
    """Predict the class of every sample in CACHE with the finished RUN.

    Any cache of the model, layer and tokens that RUN was trained on will do. Writes CSV: split, id,
    prediction, confidence, label.
    """
    from featcache.stages import predict as stage

    for name, summary in stage.predict(run, cache, out, split=split, device=device).items():
        click.echo(stage.describe(name, summary))
    click.echo(f"predictions: {out}")


@main.command()
@click.argument("pipeline")
@click.option("--out", type=click.Path(path_type=Path), help="Where caches and runs go [default: runs/NAME].")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def run(pipeline: str, out: Path | None, pairs: tuple[str, ...], device: str) -> None:
    """Extract and train what PIPELINE says: a TOML file, or a bundled one such as quickstart.

    What is done already is skipped. Ends with a table of mean and spread over seeds, and a plot of it.
    """
    from featcache.config import parse_overrides
    from featcache.progress import bar
    from featcache.stages.pipeline import run_pipeline

    study = run_pipeline(
        pipeline, out=out, overrides=parse_overrides(pairs), device=device, say=click.echo, progress=bar
    )
    click.echo(f"\n{study.describe()}")


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--objective", default="twinturbo", show_default=True, help="The method whose steps to time.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the training, for example optim.batch_size=64.",
)
@click.option("--source", help="What CACHE was extracted from [default: as it says itself].")
@click.option("--model", help="The model it was extracted with [default: as it says itself].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def bench(cache: Path, pairs: tuple[str, ...], **options: Any) -> None:
    """Say what bounds reading, training and extracting CACHE on this machine, and what would help.

    Takes less than a minute and writes nothing. A sample is one row in one view; what an option would bring
    is measured where that is cheap.
    """
    from featcache.config import parse_overrides
    from featcache.stages import bench as stage

    click.echo(stage.bench(cache, options=parse_overrides(pairs), **options).describe())


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(cache: Path, as_json: bool) -> None:
    """Print what CACHE is: model, shapes, views, splits, and whether it is whole."""
    from featcache.stages.info import describe, info

    content = info(cache)
    click.echo(json.dumps(content, indent=2) if as_json else describe(content))


def _say_if_terminal() -> Callable[[str], None]:
    return (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else (lambda line: None)


def _estimate_line(name: str, estimate: Estimate) -> str:
    from featcache.files import human_bytes

    size, views = human_bytes(estimate.nbytes), estimate.views
    return f"{name}: {estimate.rows} rows x {views} views, {size}, about {estimate.seconds:.0f} s"


def _summary_text(name: str, summary: SplitSummary) -> str:
    from featcache.files import human_bytes

    rate = summary.computed / summary.seconds
    lines = [
        f"{name}: {summary.rows} rows, {summary.computed} views computed in {summary.seconds:.1f} s "
        f"({rate:.0f}/s), {human_bytes(summary.nbytes)}, {len(summary.failed)} failed",
        "  "
        + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.stages.items())
        + (f"; bound by {summary.bound_by}" if summary.computed else ""),
    ]
    if summary.at_once:
        lines.append(f"  memory did not suffice for whole batches: at most {summary.at_once} views at once")
    lines += [f"  failed: {key}: {reason}" for key, reason in list(summary.failed.items())[:10]]
    if len(summary.failed) > 10:
        lines.append(f"  and {len(summary.failed) - 10} more")
    return "\n".join(lines)
