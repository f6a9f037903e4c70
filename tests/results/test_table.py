"""Tables as Markdown, text and HTML hold the same cells, whatever stands in them."""

import html
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from featcache.results.table import Table

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=8)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.builds(
        Table,
        st.lists(CELLS, min_size=width, max_size=width),
        st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=4),
    )
)


def unescaped(line):
    """The cells of a line of Markdown, whose borders are bars without a backslash."""
    return [html.unescape(cell.strip().replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@given(TABLES.filter(lambda table: "\\" not in str(table)))
def test_markdown_holds_every_cell(table):
    head, rule, *rows = table.markdown().splitlines()
    assert [unescaped(line) for line in (head, *rows)] == [list(cells) for cells in (table.head, *table.rows)]
    assert unescaped(rule) == ["---"] * len(table.head)


@given(TABLES.filter(lambda table: "**" not in str(table)))
def test_text_is_aligned(table):
    head, rule, *rows = table.text().splitlines()
    starts = [match.start() for match in re.finditer(r"-+", rule)]
    if len(starts) < len(table.head):  # a column without any text
        return
    ends = [*(start - 2 for start in starts[1:]), None]
    for line, cells in zip((head, *rows), (table.head, *table.rows), strict=True):
        assert line == line.rstrip()
        assert [line[a:b].rstrip() for a, b in zip(starts, ends, strict=True)] == list(cells)


@given(TABLES.filter(lambda table: "**" not in str(table)))
def test_html_is_well_formed_and_holds_every_cell(table):
    rows = ElementTree.fromstring(table.html())
    found = [[cell.text or "" for cell in row] for row in rows]
    assert found == [list(cells) for cells in (table.head, *table.rows)]
    assert [{cell.tag for cell in row} for row in rows] == [{"th"}, *({"td"} for _ in table.rows)]


def test_bold_cells_are_bold_and_nothing_else_becomes_markup():
    html = Table(["a"], [["**+1.0 ± 0.5** (knn)"], ["<script>"]]).html()
    assert "<td><b>+1.0 ± 0.5</b> (knn)</td>" in html
    assert "<script>" not in html
