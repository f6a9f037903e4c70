"""The types of what is read from the JSON files of a run; other keys are not looked at."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tree = dict[str, Any]


class _Content(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Options(_Content):
    data: Tree = {}


class _Config(_Content):
    objective: str = ""
    seed: int = 0
    labels_per_class: int | None = None
    num_labels: int | None = None
    cache: str = ""
    labels: str | None = None
    splits: dict[str, Tree] = {}
    options: _Options = _Options()


class _Environment(_Content):
    cache: str | None = None


class _Labels(_Content):
    ids: list[str] = []
    classes: list[str] | None = None
    aside: list[str] = []
    chosen: int = 0


class _Figures(_Content):
    accuracy: Share | None = None
    samples: int = 0
    low: Share = 0.0
    high: Share = 1.0
    nll: float = 0.0
    ece: float = 0.0
    nll_scaled: float = 0.0
    ece_scaled: float = 0.0
    sentence: str = ""


class _Result(_Content):
    objective: str = ""
    seed: int = 0
    labels_per_class: int | None = None
    num_labels: int = 0
    seconds: float = 0.0
    seconds_in_all: float = 0.0
    temperature: Positive = 1.0
    test: _Figures | None = None
    holdout: _Figures | None = None
    estimate: _Figures | None = None
    held_out: _Figures | None = None
    scores: dict[str, float] = {}
    open_set: dict[str, float] = {}
    probes: dict[str, float] = {}


_FILES: dict[str, type[_Content]] = {
    "config.json": _Config,
    "environment.json": _Environment,
    "labels.json": _Labels,
    "result.json": _Result,
}


def wrong_type(name: str, content: object) -> str | None:
    """Say which value of a JSON file has the wrong type; return None if all are right.

    >>> wrong_type("config.json", {"options": {"data": 3}})
    '`options.data`: Input should be a valid dictionary'
    """
    try:
        found = _FILES.get(name, _Content).model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        return f"`{key}`: {first['msg']}" if key else "no JSON object"
    if isinstance(found, _Labels) and found.classes is not None and len(found.classes) != len(found.ids):
        return f"{len(found.classes)} `classes` of {len(found.ids)} `ids`"
    return None
