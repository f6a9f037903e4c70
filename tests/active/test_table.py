"""The file of suggestions is never written over labels, nor over anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from featcache.active.table import COLUMNS, Suggestion, refuse_foreign, write
from featcache.errors import ConfigError

ONE = Suggestion("a,b.png", "train", "cat", 0.5, "dog", "cat or dog?", "cover")


def test_an_earlier_table_is_replaced_until_a_label_is_filled_in(tmp_path: Path) -> None:
    out = tmp_path / "next.csv"
    refuse_foreign(out)
    write(out, [ONE])
    assert out.read_text().splitlines() == [
        ",".join(COLUMNS),
        '"a,b.png",,train,cat,0.5000,dog,cat or dog?,cover,',
    ]
    refuse_foreign(out)
    out.write_text("id,label,split,prediction,confidence,second,why,chosen_by\na,,train,,,,,\n")
    refuse_foreign(out)  # a table of before there were texts
    write(out, [ONE])
    filled = out.read_text().replace(",,train", ",cat,train")
    for text in (filled, "\ufeff" + filled, filled.replace(",", ";").replace("a;b", "a,b")):
        out.write_text(text)
        with pytest.raises(ConfigError, match="1 labels"):
            refuse_foreign(out)


@pytest.mark.parametrize("content", [b"id,label\na,cat\n", b"\x89PNG\r\n\x00\xff", b"notes"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    out = tmp_path / "next.csv"
    out.write_bytes(content)
    with pytest.raises(ConfigError, match="not a table of suggestions"):
        refuse_foreign(out)
    with pytest.raises(ConfigError, match="a folder"):
        refuse_foreign(tmp_path)
