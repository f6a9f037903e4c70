"""The facts of an object as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def facts_table(caption: str, facts: Mapping[str, str]) -> str:
    """Return a table with a row for each fact; all text is escaped.

    >>> facts_table("Run a", {"seed": "<0>"})
    '<table><caption>Run a</caption><tr><th>seed</th><td>&lt;0&gt;</td></tr></table>'
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items())
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"
