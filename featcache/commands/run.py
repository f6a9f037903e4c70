"""`featcache run`: extract and train everything in a pipeline file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, device_option, echo, echo_aside, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "run",
    epilog=examples(
        "featcache run quickstart",
        "featcache run study.toml --set options.optim.steps=500 --set train.seeds=[0,1]",
    ),
)
@click.argument("pipeline")
@click.option("--out", type=PLACE, help="The folder for caches, runs and results [default: runs/NAME].")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file (docs/pipelines.md).",
)
@click.option("--trust", is_flag=True, help="Run the Python code that PIPELINE names.")
@device_option
@json_option
def command(
    pipeline: str, out: Location | None, pairs: tuple[str, ...], trust: bool, device: str, as_json: bool
) -> None:
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
        trust=trust,
        say=echo_aside if as_json else echo,
    )
    echo(study.as_dict() if as_json else f"\n{study.describe()}")
