"""`--config FILE`: the flags and options of a training from a file; what is given beside it wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE

if TYPE_CHECKING:
    from featcache.training.config_file import Asked

BUDGETS = ("labels_per_class", "num_labels")
"""Flags of which a training takes one."""


def _read(ctx: click.Context, param: click.Parameter, value: Any) -> Asked | None:
    """Read the file before the other flags are parsed, and make its arguments their defaults."""
    if value is None:
        return None
    from featcache.training.config_file import read_config

    asked = read_config(value)
    ctx.default_map = {**(ctx.default_map or {}), **asked.arguments}
    return asked


config_option = click.option(
    "--config",
    "asked",
    type=PLACE,
    callback=_read,
    is_eager=True,
    help="Options from a JSON or TOML file; with a run's config.json, also its objective, seed and labels.",
)


def with_config(
    asked: Asked | None, overrides: dict[str, Any], request: dict[str, Any], trust: bool
) -> dict[str, Any]:
    """Return the options of the file with `overrides` over them; adapt the flags in `request` to those given.

    A label budget on the command line replaces that of the file. With another objective on the command line,
    the file's options of its own objective do not apply. Code that only the file names needs `trust`.
    """
    if asked is None:
        return overrides
    from featcache.config import merge
    from featcache.plugins import code_in, require_trust

    ctx = click.get_current_context()
    typed = [
        name for name in request if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    ]
    if "objective" not in typed:
        require_trust(code_in([request["objective"]]), "the file of --config", trust)
    if any(name in typed for name in BUDGETS):
        request |= {name: None for name in BUDGETS if name not in typed}
    options = merge({}, asked.options)
    if "objective" in typed and request["objective"] != asked.arguments.get("objective"):
        options.pop("objective", None)
    asked.check(merge(options, overrides))
    return options
