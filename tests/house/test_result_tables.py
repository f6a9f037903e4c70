"""The tool that fills the tables of the documents, on a whole table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import result_tables

WHOLE = """| cache | labels | objective | accuracy % | minus supervised | minus best control |
| --- | --- | --- | --- | --- | --- |
| a | 1/class | linear | 50.0 ± 2.0 | -1.0 ± 3.0 | -1.0 ± 3.0 (supervised) |
| a | 1/class | supervised | 51.0 ± 1.0 |  |  |
| a | 1/class | twinturbo | 55.0 ± 3.0 | **+4.0 ± 2.0** | **+4.0 ± 2.0** (supervised) |
| a | 2/class | linear | 60.0 ± 2.0 | **+1.5 ± 0.5** |  |
| a | 2/class | supervised | 58.5 ± 1.5 |  | **-1.5 ± 0.5** (linear) |
| a | 2/class | twinturbo | 57.0 ± 4.0 | -1.5 ± 2.0 | **-3.0 ± 2.0** (linear) |
"""


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole table of a data set called `digits`, and a second table below it."""
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    second = "| labels | value |\n| --- | --- |\n| 1/class | 1 |\n| 2/class | 2 |\n"
    (folder / "digits.md").write_text(f"{WHOLE}\nMore.\n\n{second}")
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    return folder / "digits.md"


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_counts_take_only_bold_differences_of_what_is_no_control(whole: Path) -> None:
    assert rows(result_tables.counts("digits")) == [["`twinturbo`", "1", "0", "1"]]


def test_counts_want_every_objective_everywhere(whole: Path) -> None:
    whole.write_text(WHOLE + "| a | 2/class | finessl | 57.0 ± 4.0 | -1.5 ± 2.0 | -3.0 ± 4.0 (linear) |\n")
    with pytest.raises(AssertionError, match="not every objective"):
        result_tables.counts("digits")


def test_differences_come_without_the_name_of_the_control(whole: Path) -> None:
    own = ["55.0 ± 3.0; **+4.0 ± 2.0**", "57.0 ± 4.0; **-3.0 ± 2.0**"]
    assert rows(result_tables.default("twinturbo", "digits")) == [["digits, glyph-clip", *own]]
    linear, supervised, _ = rows(result_tables.study("digits"))
    assert linear == ["`linear`", "50.0 ± 2.0", "-1.0 ± 3.0", "60.0 ± 2.0", ""]
    assert supervised == ["`supervised`", "51.0 ± 1.0", "", "58.5 ± 1.5", "**-1.5 ± 0.5**"]


def test_spread_is_what_stands_behind_the_mean(whole: Path) -> None:
    assert rows(result_tables.spread("linear,twinturbo", "digits")) == [
        ["digits, glyph-clip", "2.0, 3.0", "2.0, 4.0"]
    ]


def test_only_the_table_between_the_marks_is_replaced(whole: Path) -> None:
    text = "Before.\n\n<!-- copy digits 1 1/class -->\n| old |\n<!-- end -->\n\nAfter.\n"
    made = "| labels | value |\n| --- | --- |\n| 1/class | 1 |\n"
    assert result_tables.filled(text) == text.replace("| old |\n", made)


def test_a_mark_without_its_end_takes_no_text_with_it(whole: Path) -> None:
    open_ended = "<!-- copy digits 1 1/class -->\n| old |\n\nText.\n\n"
    text = open_ended + "<!-- copy digits 1 1/class -->\n<!-- end -->\n"
    assert result_tables.filled(text).startswith(open_ended)
