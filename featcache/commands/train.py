"""`featcache train`: train one objective on a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import (
    PLACE,
    device_option,
    echo,
    echo_aside,
    examples,
    json_option,
    label_options,
    say_if_terminal,
    told,
)
from featcache.commands._config import config_option, with_config

if TYPE_CHECKING:
    from featcache.location import Location
    from featcache.training.config_file import Asked


@click.command(
    "train",
    epilog=examples(
        "featcache train photos.zarr --labels labels.csv --out runs/first",
        "featcache train photos.zarr --out runs/b --objective linear --num-labels 30 --set objective.C=1",
    ),
)
@click.argument("cache", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The folder of the run.")
@click.option(
    "--objective",
    default="twinturbo",
    show_default=True,
    help="A method, as `featcache objectives` lists them, or python:FILE.",
)
@label_options("instead of the labels in CACHE")
@click.option("--class-text", is_flag=True, help="Embed the class names with the text tower of the model.")
@click.option(
    "--holdout", type=float, default=0.0, help="Share of the labels to set aside, which test the run."
)
@click.option("--labels-per-class", type=click.IntRange(1), help="Draw this number of labels of each class.")
@click.option("--num-labels", type=click.IntRange(1), help="Draw this number of labels in all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the label draw and of the training.")
@click.option("--order-seed", type=int, help="Seed of the order of samples [default: as --seed].")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option, as `featcache options` lists them, for example optim.steps=500.",
)
@config_option
@click.option("--trust", is_flag=True, help="Run the Python code that the run of --config names.")
@device_option
@click.option("--log", help="A tracker that receives the metrics too: mlflow, trackio or wandb.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in --out.")
@json_option
def command(
    cache: Location,
    out: Location,
    *,
    labels: tuple[str, ...],
    label_column: str | None,
    ignore_unmatched: bool,
    class_text: bool,
    pairs: tuple[str, ...],
    asked: Asked | None,
    device: str,
    resume: bool,
    log: str | None,
    trust: bool,
    as_json: bool,
    **request: Any,
) -> None:
    """Train a projector from the labelled samples of CACHE, and say how good it is.

    All labels are used, unless --labels-per-class or --num-labels draws some of them. A labelled split `test`
    tests the run. Without one, cross-validation estimates its accuracy.
    """
    from featcache.config import parse_overrides
    from featcache.errors import on_the_command_line
    from featcache.progress import bar
    from featcache.runs.run import RunFolder
    from featcache.stages import train as stage
    from featcache.training.request import TrainRequest

    # First, because the file may replace what is in `request`.
    options = with_config(asked, parse_overrides(pairs), request, trust)
    training, warnings = stage.with_labels(
        TrainRequest(cache.path, options=options, **request),
        labels,
        label_column,
        ignore_unmatched,
        class_text=class_text,
    )
    for warning in warnings:
        echo_aside(f"warning: {on_the_command_line(warning)}")
    say = say_if_terminal()
    how: dict[str, Any] = {"device": device, "resume": resume, "log": log, "say": say, "show": bar}
    with told():
        result = stage.run_training(training, out.path, **how)
    if asked is not None and asked.labels not in (None, RunFolder(out.path).config().get("labels")):
        echo_aside("warning: the labels are not those that the run of --config learned from")
    echo({"run": str(out), **result} if as_json else f"{stage.describe(result)}\nrun: {out}")
