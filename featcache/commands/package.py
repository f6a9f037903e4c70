"""`featcache package`: a run with its frozen model, as one folder that predicts raw samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, examples, json_option, told

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "package",
    epilog=examples(
        "featcache package runs/first --out model",
        "featcache package runs/first --out model --weights --onnx",
    ),
)
@click.argument("run", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The folder of the package.")
@click.option("--weights", is_flag=True, help="Copy the frozen model into the package.")
@click.option("--onnx", is_flag=True, help="Add projector and head, and the frozen model, as ONNX.")
@click.option("--torch-export", is_flag=True, help="Add them as programs of torch.export.")
@click.option("--cache", type=PLACE, help="A cache with the features of the run [default: the run's].")
@click.option("--model", help="The frozen model [default: as recorded in the cache].")
@click.option("--trust", is_flag=True, help="Run the Python code that RUN or its cache names.")
@json_option
def command(run: Location, out: Location, as_json: bool, **options: Any) -> None:
    """Write RUN and its frozen model as a folder that predicts raw samples.

    The folder has the projector, the head, the classes and the name of the frozen model, and a model card.
    `featcache predict` takes it as RUN, with a folder of images in the place of CACHE.
    """
    from featcache.stages import package as stage

    with told():
        made = stage.package(run, out, **options)
    content = {"package": str(made.path), "model": made.package.model, "classes": list(made.classes)}
    echo(content if as_json else f"{stage.describe(made)}\npackage: {made.path}")
