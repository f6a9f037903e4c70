"""The command line: parse, call one stage, print. Heavy libraries are imported by the command that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featcache import __version__
from featcache.flags import OptionsCommand

if TYPE_CHECKING:
    from featcache.extraction.options import ExtractOptions
    from featcache.location import Location


class _Group(click.Group):
    """Print a FeatcacheError without a traceback and exit with 1; exit with 130 when interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        from featcache.errors import FeatcacheError

        try:
            return super().invoke(ctx)
        except FeatcacheError as error:
            click.echo(f"error: {error.text(command_line=True)}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "interrupted: repeat the command to continue (`featcache train` needs --resume)",
                err=True,
            )
            ctx.exit(130)


class _Place(click.ParamType[Any]):
    """A path; a URL is an error."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        from featcache.location import Location

        return Location.of(value)


PLACE = _Place()
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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
@click.option("--out", required=True, type=PLACE, help="The cache, for example CACHE.zarr.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dry-run", is_flag=True, help="Print shapes, bytes and estimated time; write no cache.")
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
@json_option
def extract(
    source: str,
    model: str,
    out: Location,
    *,
    dry_run: bool,
    overwrite: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a frozen model on SOURCE once and cache its tokens.

    SOURCE is a folder of images, a Parquet, WebDataset, HDF5, NumPy, CSV, JSONL or text file, or `digits`.
    If the command is interrupted, repeat it to continue.
    """
    from featcache.extraction.options import ExtractOptions
    from featcache.progress import bar
    from featcache.stages import extract as stage

    if dry_run:
        shapes, estimates = stage.dry_run(source, model, out, overwrite=overwrite, device=device, **options)
        estimated = {"shapes": shapes.model_dump(mode="json"), "splits": _plain(estimates)}
        _print(estimated if as_json else stage.describe_dry_run(shapes, estimates))
        return
    asked = ExtractOptions.of(options)
    summaries = stage.run_extraction(
        source, model, out, asked, overwrite=overwrite, device=device, progress=bar
    )
    lines = [stage.describe(name, summary) for name, summary in summaries.items()]
    content = {"cache": str(out), "splits": _plain(summaries)}
    _print(content if as_json else "\n".join([*lines, f"cache: {out}"]))


@main.command()
@click.argument("cache", type=PLACE)
@click.option("--objective", required=True, help="A method such as twinturbo; the README lists them all.")
@click.option("--out", required=True, type=PLACE, help="The folder of the run.")
@click.option("--labels-per-class", type=click.IntRange(1), help="Number of labels of each class.")
@click.option("--num-labels", type=click.IntRange(1), help="Number of labels in all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the label draw and of the training.")
@click.option("--order-seed", type=int, help="Seed of the order of samples [default: as --seed].")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option, for example optim.steps=500 or objective.w_ent=0.1.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in --out.")
@json_option
def train(
    cache: Location,
    out: Location,
    *,
    pairs: tuple[str, ...],
    device: str,
    resume: bool,
    as_json: bool,
    **request: Any,
) -> None:
    """Train a projector from CACHE with a few labels, and test it."""
    from featcache.config import parse_overrides
    from featcache.progress import bar
    from featcache.stages import train as stage
    from featcache.training.session import TrainRequest

    asked = TrainRequest(cache.path, options=parse_overrides(pairs), **request)
    say = _say_if_terminal()
    result = stage.run_training(asked, out.path, device=device, resume=resume, say=say, show=bar)
    _print({"run": str(out), **result} if as_json else f"{stage.describe(result)}\nrun: {out}")


@main.command()
@click.argument("run", type=PLACE)
@click.argument("cache", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The table, for example predictions.csv.")
@click.option("--split", help="One split of the cache [default: all].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@json_option
def predict(
    run: Location, cache: Location, out: Location, split: str | None, device: str, as_json: bool
) -> None:
    """Predict the class of every sample in CACHE with the finished RUN.

    CACHE must have the model, layer and tokens that RUN was trained on; it may be another cache. The table is
    CSV with the columns split, id, prediction, confidence and label.
    """
    from featcache.stages import predict as stage

    summaries = stage.predict(run, cache, out, split=split, device=device)
    lines = [stage.describe(name, summary) for name, summary in summaries.items()]
    content = {"predictions": str(out), "splits": _plain(summaries)}
    _print(content if as_json else "\n".join([*lines, f"predictions: {out}"]))


@main.command()
@click.argument("pipeline")
@click.option("--out", type=PLACE, help="The folder for caches, runs and results [default: runs/NAME].")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@json_option
def run(pipeline: str, out: Location | None, pairs: tuple[str, ...], device: str, as_json: bool) -> None:
    """Extract and train everything in PIPELINE, a TOML file or the name of a bundled one such as quickstart.

    Finished trainings are skipped. Prints a table of means and standard deviations over seeds, and plots it.
    """
    from featcache.config import parse_overrides
    from featcache.stages.pipeline import run_pipeline

    study = run_pipeline(
        pipeline,
        out=out,
        overrides=parse_overrides(pairs),
        device=device,
        say=(lambda line: click.echo(line, err=True)) if as_json else click.echo,
    )
    _print(study.as_dict() if as_json else f"\n{study.describe()}")


@main.command()
@click.argument("runs", nargs=-1, required=True)
@json_option
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare finished RUNS: folders, or patterns such as 'runs/**'.

    Prints one row for each method, label budget and cache. The runs may come from any command.
    """
    from featcache.report.compare import compare

    comparison = compare(runs)
    _print(comparison.as_dict() if as_json else repr(comparison).rstrip())


@main.command()
@click.argument("cache", type=PLACE)
@click.option("--objective", default="twinturbo", show_default=True, help="The method whose steps to time.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the training, for example optim.batch_size=64.",
)
@click.option("--source", help="The source that CACHE was extracted from [default: as recorded in CACHE].")
@click.option("--model", help="The model that CACHE was extracted with [default: as recorded in CACHE].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@json_option
def bench(cache: Location, pairs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure what limits training from and extraction of CACHE on this machine, and which options help.

    Takes less than a minute and writes nothing. A sample is one row in one view. The effect of an option is
    measured if that is cheap.
    """
    from featcache.config import parse_overrides
    from featcache.stages import bench as stage

    measured = stage.bench(cache, options=parse_overrides(pairs), **options)
    _print(measured.as_dict() if as_json else measured.describe())


@main.command()
@click.argument("cache", type=PLACE)
@json_option
def info(cache: Location, as_json: bool) -> None:
    """Print the model, shapes, views, splits and completeness of CACHE."""
    from featcache.stages.info import describe, info

    content = info(cache)
    _print(content if as_json else describe(content))


def _print(content: str | dict[str, Any]) -> None:
    """Print lines for a person, or values as JSON."""
    click.echo(content if isinstance(content, str) else json.dumps(content, indent=2))


def _plain(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """Return dataclasses by name as plain values, for JSON."""
    return {name: asdict(summary) for name, summary in summaries.items()}


def _say_if_terminal() -> Callable[[str], None]:
    return (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else (lambda line: None)
