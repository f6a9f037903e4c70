"""Printed characters as a folder: every character of every font, in both splits."""

import pytest
from click.testing import CliRunner

from featcache.sources import open_source
from tools.glyph_clip import glyphs
from tools.printed import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_character_of_every_font(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path), "--draws", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    splits = open_source(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 14 * 77, "test": 2 * 77}
    assert len(splits["train"].class_names) == len(glyphs.NAMES)
