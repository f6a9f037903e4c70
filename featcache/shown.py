"""Text from outside, as it may be shown: harmless in a terminal and in a spreadsheet."""

from __future__ import annotations

import re
import unicodedata

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""A cell that a spreadsheet would compute, after quotes that `cell` has put there."""


def harmless(text: str, *, lines: bool = True) -> str:
    r"""Write control characters, and signs that turn the direction of text, as escapes.

    Line breaks are kept where a text may have several lines.

    >>> harmless("a\x1b[31m\n"), harmless("a\n\u202eb", lines=False)
    ('a\\x1b[31m\n', 'a\\n\\u202eb')
    """
    if text.isprintable():
        return text
    return "".join(c if _is_plain(c, lines) else c.encode("unicode_escape").decode() for c in text)


def _is_plain(character: str, lines: bool) -> bool:
    if character in "\n\t":
        return lines
    # Cf: signs without a width, which may turn the direction. Two of them join letters and emoji.
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return not hidden or character in "\u200c\u200d"


def cell(text: str) -> str:
    """Return a cell of CSV that no spreadsheet takes for a formula; `uncelled` gives the text again.

    >>> cell("=1+1"), cell("'=1"), cell("cat"), cell("-1/a.png")
    ("'=1+1", "''=1", 'cat', "'-1/a.png")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def uncelled(text: str) -> str:
    """Return the text of a cell that `cell` has made.

    >>> uncelled("'=1+1"), uncelled("'cat'"), uncelled("=1")
    ('=1+1', "'cat'", '=1')
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
