"""`featcache train`: train one objective on a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, json_option, say_if_terminal

if TYPE_CHECKING:
    from featcache.location import Location


@click.command("train")
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
def command(
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
    say = say_if_terminal()
    result = stage.run_training(asked, out.path, device=device, resume=resume, say=say, show=bar)
    echo({"run": str(out), **result} if as_json else f"{stage.describe(result)}\nrun: {out}")
