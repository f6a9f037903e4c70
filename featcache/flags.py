"""Make command-line flags from the fields of typed options, with their defaults, help and choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from featcache.errors import on_the_command_line, option
from featcache.nearest import nearest_value

if TYPE_CHECKING:
    from featcache.config import Config


class OptionsCommand(click.Command):
    """A command whose flags include the fields of a `Config`.

    The `Config` is imported when the flags are first needed, so `featcache --help` does not import pydantic.
    """

    options: Callable[[], type[Config]]
    """Function that imports the options; they follow the command's own required parameters."""
    _complete = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the flags of the options."""
        if not self._complete:
            own = [parameter for parameter in self.params if parameter.required]
            others = [parameter for parameter in self.params if not parameter.required]
            self.params = [*own, *flags_of(self.options()), *others]
            self._complete = True
        return super().get_params(ctx)


def flags_of(options: type[Config]) -> Iterator[click.Option]:
    """Return one flag for each field, with the field's default and its description as help."""
    schema = options.model_json_schema()["properties"]
    for name, field in options.model_fields.items():
        default = _spelled(field.get_default(call_default_factory=True))
        if schema[name].get("type") == "boolean":
            yield click.Option(
                [on_the_command_line(option(name)), name], is_flag=True, default=False, help=field.description
            )
            continue
        yield click.Option(
            [on_the_command_line(option(name)), name],
            default=default,
            show_default=bool(default),
            type=_type(schema[name]),
            help=field.description,
        )


class _Choice(click.Choice[str]):
    """One of some words; an error names the one that may be meant: float16 for fp16."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if near := nearest_value(value, tuple(self.choices)):
                raise click.BadParameter(f"{error.message} Did you mean {near!r}?", ctx, param) from None
            raise


class _Number(click.IntRange):
    """An integer, or one of some words."""

    def __init__(self, least: int, most: int | None, words: tuple[str, ...]) -> None:
        super().__init__(least, most)
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in self.words else super().convert(value, param, ctx)


def _type(schema: dict[str, Any]) -> click.ParamType[Any]:
    """Return click's type for choices and numbers; the options themselves check everything else."""
    kinds = schema.get("anyOf", [schema])
    if "enum" in schema:
        return _Choice(schema["enum"])
    for kind in kinds:
        if kind.get("type") == "integer":
            least = kind["minimum"] if "minimum" in kind else kind["exclusiveMinimum"] + 1
            return _Number(
                least, kind.get("maximum"), tuple(kind["const"] for kind in kinds if "const" in kind)
            )
    return click.STRING


def _spelled(default: Any) -> str | None:
    """Return a default as the command line spells it; None if the help text describes it."""
    if isinstance(default, tuple):
        return "|".join(map(str, default))
    if hasattr(default, "model_dump"):
        fields = default.model_dump(exclude_defaults=True)
        return ",".join(f"{name}={value}" for name, value in fields.items())
    return str(default) if isinstance(default, (str, int)) else None
