"""How good a choice without test labels was: rule by rule, against the oracle that saw them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featcache.report.table import difference, mean_and_spread, paired

ORACLE, DEFAULT = "oracle", "default"


@dataclass(frozen=True)
class Choice:
    """What one rule chose for one objective at one label budget on one cache, over its draws."""

    cache: str
    labels: str
    objective: str
    rule: str
    """`cross-validation` or `vote` (the first of them that is listed is the one in use), a score, `default`,
    or `oracle`: the best by test labels, which no one has."""
    settings: tuple[str, ...]
    """By draw."""
    accuracy: tuple[float, ...]
    """Percent on test rows, by draw."""


def markdown(choices: Sequence[Choice]) -> str:
    """A Markdown table with the paired differences to oracle and default, bold as in the main one."""
    head = ["cache", "labels", "objective", "chosen by", "accuracy %", "minus oracle", "minus default"]
    lines = [[*head, "settings"], ["---"] * (len(head) + 1)]
    references = {(c.cache, c.labels, c.objective, c.rule): c.accuracy for c in choices}
    for c in choices:
        gaps = [
            difference(paired(c.accuracy, references[c.cache, c.labels, c.objective, reference]))
            if reference != c.rule
            else ""
            for reference in (ORACLE, DEFAULT)
        ]
        settings = ", ".join(f"{name} ({n})" for name, n in Counter(c.settings).most_common())
        rule = f"{c.rule} (test labels)" if c.rule == ORACLE else c.rule
        cells = [c.cache, c.labels, c.objective, rule, mean_and_spread(np.array(c.accuracy)), *gaps, settings]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
