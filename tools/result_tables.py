"""Fill the tables of docs/results.md and README.md from docs/results, which `featcache run` wrote.

A table is between `<!-- VIEW NAME ... -->` and `<!-- end -->`. VIEW is a function of this module, and NAME
is a file in docs/results without its ending. With `--check`, only check that the pages are up to date.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from featcache.results.rows import CONTROLS
from featcache.results.table import Table

ROOT = Path(__file__).parents[1]
PAGES = ("docs/results.md", "README.md")
MARKED = re.compile(r"(<!-- (\w+)((?: \S+)+) -->\n)(?:\|.*\n)*(<!-- end -->)")
TITLES = {
    "digits": "digits, glyph-clip",
    "signdigits": "signdigits, SqueezeNet",
    "cifar10": "cifar10, SqueezeNet",
    "trec6": "trec6, MiniLM-L6",
    "clinc150": "clinc150, MiniLM-L6",
}
Row = dict[str, str]


def tables(name: str) -> list[list[Row]]:
    """Read all tables of docs/results/NAME.md; a row maps the name of a column to the text of its cell.

    Differences to the best control come without its name.
    """
    found: list[list[Row]] = []
    lines = [*(ROOT / "docs" / "results" / f"{name}.md").read_text().splitlines(), ""]
    block: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            line = re.sub(rf" \(({'|'.join(CONTROLS)})\) \|", " |", line)
            block.append([cell.strip() for cell in line.strip("|").split("|")])
        elif block:
            head, _, *rows = block
            found.append([dict(zip(head, row, strict=True)) for row in rows])
            block = []
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return Table(head, rows).markdown()


def cells(name: str) -> dict[tuple[str, str], Row]:
    """Return the rows of the first table, by objective and budget."""
    return {(row["objective"], row["labels"]): row for row in tables(name)[0]}


def distinct(rows: Sequence[Row], column: str) -> list[str]:
    """Return the distinct values of a column, in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def title(name: str) -> str:
    """Return the title of a data set; `NAME-ten` is `NAME` over ten draws."""
    return TITLES[name.removesuffix("-ten")]


def study(name: str) -> str:
    """Show accuracy and its difference to the best control, for objectives and budgets."""
    return by_budget(name, "minus best control")


def variants(name: str, against: str) -> str:
    """Compare versions of one objective with it and with supervised training."""
    return by_budget(name, f"minus {against}", "minus supervised", without=("zero_shot", "knn"))


def by_budget(name: str, *columns: str, without: Sequence[str] = ()) -> str:
    """Show accuracy and the named columns for every budget, with a row for every objective."""
    rows, by = tables(name)[0], cells(name)
    budgets = distinct(rows, "labels")
    return markdown(
        ["objective", *(text for b in budgets for text in (b, *columns))],
        [
            [f"`{o}`", *(by[o, b][c] for b in budgets for c in ("accuracy %", *columns))]
            for o in distinct(rows, "objective")
            if o not in without
        ],
    )


def default(objective: str, *names: str) -> str:
    """Show accuracy of one objective on several data sets, and the difference to the best control."""
    budgets = distinct(tables(names[0])[0], "labels")
    rows = []
    for name in names:
        found = [cells(name)[objective, b] for b in budgets]
        rows.append([title(name), *(f"{row['accuracy %']}; {row['minus best control']}" for row in found)])
    return markdown(["", *budgets], rows)


def counts(*names: str) -> str:
    """Count the cells in which each objective is clearly better or worse than the best control."""
    rows = [row for name in names for row in tables(name)[0]]
    count: Counter[tuple[str, str]] = Counter()
    for row in rows:
        found = re.match(r"\*\*([+-])", row["minus best control"])
        count[row["objective"], {"+": "better", "-": "worse"}[found[1]] if found else "neither"] += 1
    kinds = ("better", "neither", "worse")
    chosen = [o for o in distinct(rows, "objective") if o not in CONTROLS]
    totals = {sum(count[o, kind] for kind in kinds) for o in chosen}
    assert len(totals) == 1, "not every objective was run everywhere"
    return markdown(
        ["objective", "clearly better", "neither", "clearly worse"],
        [[f"`{o}`", *(str(count[o, kind]) for kind in kinds)] for o in chosen],
    )


def spread(objectives: str, *names: str) -> str:
    """Show standard deviations of accuracy over draws, in the order of `objectives` (separated by commas)."""
    chosen, budgets = objectives.split(","), distinct(tables(names[0])[0], "labels")
    rows = []
    for name in names:
        by = cells(name)
        found = [[by[o, b]["accuracy %"].partition(" ± ")[2] for o in chosen] for b in budgets]
        rows.append([title(name), *(", ".join(values) for values in found)])
    return markdown(["", *budgets], rows)


def calibration(measure: str, objectives: str, *names: str) -> str:
    """Show NLL or ECE, before and after temperature scaling."""
    budgets, rows = distinct(tables(names[0])[0], "labels"), []
    for name in names:
        for o in objectives.split(","):
            found = [cells(name)[o, b] for b in budgets]
            texts = [f"{row[measure]} → {row[f'{measure} scaled']}" for row in found]
            rows.append([title(name), f"`{o}`", *texts])
    return markdown(["", "objective", *budgets], rows)


def conditions(name: str, *columns: str) -> str:
    """Show the named columns (`-` for a space), where filled, of one budget under several conditions."""
    rows, wanted = tables(name)[0], [column.replace("-", " ") for column in columns]
    caches, by = distinct(rows, "cache"), {(row["objective"], row["cache"]): row for row in rows}

    def text(row: Row) -> str:
        return "; ".join(filter(None, (row.get("accuracy %" if w == "accuracy" else w) for w in wanted)))

    return markdown(
        ["objective", *(cache.partition("+")[2] for cache in caches)],
        [[f"`{o}`", *(text(by[o, c]) for c in caches)] for o in distinct(rows, "objective")],
    )


def copy(name: str, number: str, labels: str, *without: str) -> str:
    """Copy the table `number` (from 0) for one budget or `all`, without its cache and the columns `without`.

    Options come without `optim.`.
    """
    rows = tables(name)[int(number)]
    head = [column for column in rows[0] if column not in ("cache", *without)]
    kept = [row for row in rows if labels in ("all", row["labels"])]
    return markdown(head, [[row[column].replace("optim.", "") for column in head] for row in kept])


def quickstart(name: str) -> str:
    """Show the five methods of the quickstart by budget."""
    by, rows = cells(name), []
    for b in distinct(tables(name)[0], "labels"):
        row = by["twinturbo", b]
        found = [by[o, b]["accuracy %"] for o in ("knn", "linear", "supervised", "twinturbo")]
        zero = by["zero_shot", b]["accuracy %"].partition(" ")[0]
        rows.append([b.partition("/")[0], zero, *found, row["minus linear"], row["minus supervised"]])
    names = ["zero_shot", "knn", "linear", "supervised", "twinturbo"]
    head = ["labels per class", *(f"`{o}`" for o in names), "minus `linear`", "minus `supervised`"]
    return markdown(head, rows)


def methods(objectives: str, budget: str, *names: str) -> str:
    """Show objectives at one budget on several data sets, and the last one minus the best control."""
    chosen, rows = objectives.split(","), []
    for name in names:
        found = [cells(name)[o, budget] for o in chosen]
        rows.append([title(name), *(row["accuracy %"] for row in found), found[-1]["minus best control"]])
    head = [budget, *(f"`{o}`" for o in chosen), f"`{chosen[-1]}` minus the best control"]
    return markdown(head, rows)


VIEWS: dict[str, Callable[..., str]] = {
    view.__name__: view
    for view in (study, default, counts, spread, calibration, variants, conditions, copy, quickstart, methods)
}


def filled(page: str) -> str:
    """Return the page with all marked tables updated."""
    return MARKED.sub(lambda m: m[1] + VIEWS[m[2]](*m[3].split()) + m[4], page)


def main() -> int:
    """Write the pages, or check them."""
    stale = [ROOT / p for p in PAGES if filled((ROOT / p).read_text()) != (ROOT / p).read_text()]
    if sys.argv[1:] != ["--check"]:
        for page in stale:
            page.write_text(filled(page.read_text()))
        return 0
    for page in stale:
        print(
            f"{page.name} is not what docs/results says: run python tools/result_tables.py", file=sys.stderr
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
