"""Render tables of text as Markdown, as aligned text or as HTML, and figures as cells."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from featcache.results.statistics import Difference, mean_and_std
from featcache.shown import harmless

_BOLD = re.compile(r"\*\*(.+?)\*\*")
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Table:
    """A table: names of columns, and rows of as many cells.

    >>> table = Table(["a", "bb"], [["ccc", "d"]])
    >>> print(table.markdown(), table.text(), sep="", end="")
    | a | bb |
    | --- | --- |
    | ccc | d |
    a    bb
    ---  --
    ccc  d
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown; what would end a cell, or is HTML, is escaped."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "".join(f"| {' | '.join(map(_markdown_cell, cells))} |\n" for cells in lines)

    def latex(self) -> str:
        r"""Return the table as LaTeX, for the package booktabs.

        >>> print(Table(["a_b"], [["**+1.0 ± 0.2**"]]).latex().splitlines()[4])
        \textbf{+1.0 $\pm$ 0.2} \\
        """
        head, *rows = (" & ".join(map(_latex_cell, cells)) + r" \\" for cells in (self.head, *self.rows))
        begin, end = rf"\begin{{tabular}}{{{'l' * len(self.head)}}}", r"\end{tabular}"
        return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", end]) + "\n"

    def without(self, column: str) -> Table:
        """Return the table without a column."""
        place = list(self.head).index(column)
        head, *rows = ([*cells[:place], *cells[place + 1 :]] for cells in (self.head, *self.rows))
        return Table(head, rows)

    @property
    def width(self) -> int:
        """The number of columns of a terminal that `text` takes."""
        return max(map(len, self.text().splitlines()))

    def text(self) -> str:
        """Return the table with padded columns, for a terminal; a star follows what is bold.

        >>> print(Table(["a"], [["**+1.0** (b)"]]).text().splitlines()[-1])
        +1.0* (b)
        """
        body = [self.head, *([_BOLD.sub(r"\1*", cell) for cell in cells] for cells in self.rows)]
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        body.insert(1, ["-" * width for width in widths])
        lines = ["  ".join(c.ljust(width) for c, width in zip(cells, widths, strict=True)) for cells in body]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def html(self) -> str:
        """Return the table as HTML without styles; all text is escaped, and bold cells stay bold.

        >>> Table(["a<b"], [["**+1.0**"]]).html()
        '<table><tr><th>a&lt;b</th></tr><tr><td><b>+1.0</b></td></tr></table>'
        """
        lines = [("th", self.head), *(("td", row) for row in self.rows)]
        return (
            "<table>" + "".join(f"<tr>{_html_cells(kind, cells)}</tr>" for kind, cells in lines) + "</table>"
        )


def _markdown_cell(text: str) -> str:
    plain = re.sub("&(?=[A-Za-z#])", "&amp;", harmless(text, lines=False))
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", plain).replace("|", "\\|")


def _latex_cell(text: str) -> str:
    plain = harmless(text, lines=False)
    escaped = "".join(_LATEX.get(character, character) for character in plain)
    return _BOLD.sub(r"\\textbf{\1}", escaped)


def _html_cells(kind: str, cells: Sequence[str]) -> str:
    texts = [_BOLD.sub(r"<b>\1</b>", html.escape(cell)) for cell in cells]
    return "".join(f"<{kind}>{text}</{kind}>" for text in texts)


def mean_text(values: Sequence[float]) -> str:
    """Write the mean and, for several values, the standard deviation.

    >>> mean_text([50.0, 60.0, 70.0]), mean_text([50.0])
    ('60.0 ± 10.0', '50.0')
    """
    mean, std = mean_and_std(values)
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def difference_text(difference: Difference | None) -> str:
    """Write mean and half-width, in bold where the difference is clear; return "" for None.

    >>> [difference_text(d) for d in (Difference(2.0, 1.0, 5), Difference(2.0, 3.0, 5), None)]
    ['**+2.0 ± 1.0**', '+2.0 ± 3.0', '']
    """
    if difference is None:
        return ""
    text = f"{difference.mean:+.1f}"
    if math.isfinite(difference.half_width):
        text += f" ± {difference.half_width:.1f}"
    return f"**{text}**" if difference.clear else text
