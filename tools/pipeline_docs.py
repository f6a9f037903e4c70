"""Fill the lists of keys in docs/pipelines.md from the types of a pipeline file.

A list is between `<!-- keys NAME -->` and `<!-- end -->`, and NAME is a key of `TABLES`. With `--check`, only
report whether the page is up to date.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

from featcache.config import Config
from featcache.results.pipeline_file import ExtractTable, Pipeline, TrainTable, VariantTable
from featcache.training.catalogue import OptionFacts, option_facts

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"
TABLES: dict[str, type[Config]] = {
    "file": Pipeline,
    "extract": ExtractTable,
    "train": TrainTable,
    "variant": VariantTable,
}
MARKED = re.compile(r"(<!-- keys (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def keys(name: str) -> str:
    """Return the list of keys of a table: values, default and meaning."""
    table = TABLES[name]
    first = ["source", "model", "cache"] if table is ExtractTable else []
    facts = sorted(option_facts(table), key=lambda fact: fact.name not in first)
    if table is Pipeline:  # [train] has a list of its own
        grid = OptionFacts("train", None, "table", (), "`[train]`: the grid of trainings.")
        facts = [fact for fact in facts if not fact.name.startswith("train.")]
        facts.insert(2, grid)
    lines = []
    for fact in facts:
        optional = "optional" if fact.default is None else f"default {json.dumps(fact.default)}"
        required = table.model_fields[fact.name.partition(".")[0]].is_required()
        default = "required" if required else optional
        text = f"- `{fact.name}`: {fact.values}; {default}. {fact.meaning}"
        lines += textwrap.wrap(text, 110, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """Return the page with all lists updated."""
    return MARKED.sub(lambda found: f"{found[1]}\n{keys(found[2])}\n{found[3]}", page)


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(filled(page))
        return 0
    if filled(page) == page:
        return 0
    print(f"{PAGE.name} is out of date: run python tools/pipeline_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
