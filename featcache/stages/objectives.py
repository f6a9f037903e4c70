"""`featcache objectives`: every method that can be trained."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from featcache.training.catalogue import ObjectiveFacts, all_objective_facts


def list_objectives() -> tuple[ObjectiveFacts, ...]:
    """Return name, summary, source and kind of every objective, those of installed packages included.

    >>> "twinturbo" in [objective.name for objective in list_objectives()]
    True
    """
    return all_objective_facts()


def describe(objectives: Sequence[ObjectiveFacts], width: int) -> str:
    """Write objectives for a terminal of some width, one after another."""
    wide = max(len(objective.name) for objective in objectives)
    lines = []
    for objective in objectives:
        cited = f" [{objective.source}]" if objective.source else ""
        text = f"{objective.summary}{cited}"
        lines.append(
            textwrap.fill(
                text,
                max(width, wide + 32),
                initial_indent=f"{objective.name:{wide}}  {objective.kind:9}  ",
                subsequent_indent=" " * (wide + 13),
                break_on_hyphens=False,
            )
        )
    notes = (
        "projector: trains a projector in steps. probe: fitted to the frozen embeddings at once. "
        "Your own: --objective python:path/to/mine.py. Options: featcache options OBJECTIVE."
    )
    return "\n".join([*lines, "", textwrap.fill(notes, max(width, 40))])
