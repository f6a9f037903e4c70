"""List every objective, and every option of a training, from their code and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_origin

from featcache import plugins
from featcache.config import Config
from featcache.objectives.base import Probe
from featcache.training.options import TrainOptions
from featcache.training.recipe import objective_class

_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "object": "table"}


@dataclass(frozen=True)
class ObjectiveFacts:
    """The facts of one objective: what it does, and where it comes from."""

    name: str
    summary: str
    """One line."""
    source: str
    """The paper; empty if its file names none."""
    kind: Literal["projector", "probe"]
    """`projector`: it trains a projector in steps; `probe`: it is fitted to frozen embeddings at once."""


@dataclass(frozen=True)
class OptionFacts:
    """One option: its dotted name, default, values and meaning."""

    name: str
    default: Any
    """As JSON has it; None: not set."""
    values: str
    """The type with its limits, or the choices: `number > 0`, `float32 | bfloat16`."""
    choices: tuple[str, ...]
    """The words that it takes; empty where it takes other values only."""
    meaning: str


def objective_facts(name: str) -> ObjectiveFacts:
    """Return the facts of an objective; raises ConfigError for an unknown name.

    >>> facts = objective_facts("linear")
    >>> facts.kind, facts.source
    ('probe', 'arXiv 2103.00020')
    """
    kind = objective_class(name)
    summary, source = _cited(inspect.getdoc(inspect.getmodule(kind)) or inspect.getdoc(kind) or "")
    return ObjectiveFacts(name, summary, source, "probe" if issubclass(kind, Probe) else "projector")


def all_objective_facts() -> tuple[ObjectiveFacts, ...]:
    """Return the facts of all objectives, of featcache and of installed packages, sorted by name."""
    return tuple(objective_facts(name) for name in plugins.names("objectives"))


def training_options(objective: str | None = None) -> tuple[OptionFacts, ...]:
    """Return every option of a training; with an objective, its own ones (`objective.NAME`) come first.

    Raises ConfigError for an unknown objective.

    >>> next(option.values for option in training_options() if option.name == "optim.lr")
    'number > 0'
    """
    own = () if objective is None else option_facts(objective_class(objective).Options, "objective.")
    every = (option for option in option_facts(TrainOptions) if option.name != "objective")
    return (*own, *every)


def option_facts(options: type[Config], prefix: str = "") -> Iterator[OptionFacts]:
    """Yield the facts of every option, also inside tables, in the order of their definition."""
    meanings, schema = _meanings(options), options.model_json_schema()
    for name, field in options.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Config):
            yield from option_facts(kind, f"{prefix}{name}.")
            continue
        own = schema["properties"][name]
        yield OptionFacts(
            name=f"{prefix}{name}",
            default=own.get("default"),
            values=" | ".join(dict.fromkeys(_values(own, schema.get("$defs", {})))),
            choices=tuple(dict.fromkeys(_choices(own, schema.get("$defs", {})))),
            meaning=" ".join((field.description or meanings.get(name, "")).split()),
        )


def _meanings(options: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class and of its bases."""
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if not (issubclass(kind, Config) and kind is not Config):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue  # a class without a file, for example typed into a Python prompt
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[field.target.id] = inspect.cleandoc(str(after.value.value))
    return found


def _branches(schema: Mapping[str, Any], tables: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the alternatives of a JSON schema, without null, which no option can be set to."""
    if "$ref" in schema:
        yield from _branches(tables[schema["$ref"].rpartition("/")[2]], tables)
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _branches(branch, tables)
    elif schema.get("type") != "null":
        yield schema


def _choices(schema: Mapping[str, Any], tables: Mapping[str, Any]) -> Iterator[str]:
    for branch in _branches(schema, tables):
        for value in branch.get("enum", [branch["const"]] if "const" in branch else []):
            yield str(value)


def _values(schema: Mapping[str, Any], tables: Mapping[str, Any]) -> Iterator[str]:
    for branch in _branches(schema, tables):
        if choices := list(_choices(branch, tables)):
            yield from choices
        elif branch.get("type") == "boolean":
            yield from ("true", "false")
        elif branch.get("type") == "array":
            yield f"list of {' | '.join(_values(branch.get('items', {}), tables)) or 'values'}"
        else:
            word = "path" if branch.get("format") == "path" else _WORDS.get(branch.get("type", ""), "value")
            limits = [f"{sign} {branch[key]:g}" for key, sign in _LIMITS.items() if key in branch]
            yield " ".join([word, ", ".join(limits)]).strip()


def _cited(doc: str) -> tuple[str, str]:
    """Split the docstring of an objective's file into its first line and the source that it names.

    >>> _cited("Mixes views (arXiv 2110.09510, eq. 4).")
    ('Mixes views', 'arXiv 2110.09510, eq. 4')
    >>> _cited("Entropy: loss = ent. Source: Grandvalet and Bengio, NeurIPS 2004.")
    ('Entropy: loss = ent', 'Grandvalet and Bengio, NeurIPS 2004')
    """
    first = doc.partition("\n")[0]
    named = " ".join(doc.partition("Source: ")[2].split())
    summary = first.partition(" Source: ")[0].strip()
    if found := re.search(r" \(([^()]*(?:arXiv|(?:19|20)\d\d)[^()]*)\)\.?$", summary):
        return summary[: found.start()], found[1]
    if paper := re.search(r"arXiv \d{4}\.\d{4,5}", named):
        return summary.rstrip(". "), paper[0]
    return summary.rstrip(". "), re.split(r"\.(?:\s|$)", named)[0]
