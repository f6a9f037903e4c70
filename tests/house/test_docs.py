"""What the pages show works as written.

Every page is walked from top to bottom in one empty folder. Blocks tagged `sh` and `python` are run, those
with a title (```python title=mylab/idx.py) are written to that file, and all others are only for reading.
What is in `mylab/` counts as an installed package, with the entry points that its pyproject.toml declares.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "data/README.md",
    "docs/format.md",
    "docs/architecture.md",
    "docs/exchange.md",
    "docs/scale.md",
)
READ_ONLY = {"text", "toml", "json"}
FENCE = re.compile(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block of a page."""

    line: int
    tag: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [Block(text.count("\n", 0, m.start()) + 1, m[1], m[2], m[3]) for m in FENCE.finditer(text)]


def install(folder: Path, project: str) -> None:
    """What pip would leave of a package: its entry points, where Python looks for them."""
    groups = tomllib.loads(project)["project"]["entry-points"]
    info = folder / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    command = ["bash", "-euo", "pipefail", "-c"] if block.tag == "sh" else [sys.executable, "-c"]
    return subprocess.run(
        [*command, block.text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(page: str, tmp_path: Path) -> None:
    found = blocks(page)
    assert [block for block in found if block.tag in ("sh", "python")], f"{page} shows nothing to run"
    for block in found:
        assert block.tag in {"sh", "python"} | READ_ONLY, f"{page}:{block.line}: a block tagged `{block.tag}`"
        if block.title:
            place = tmp_path / block.title
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text)
            if place.name == "pyproject.toml":
                install(tmp_path, block.text)
        elif block.tag not in READ_ONLY:
            done = run(block, tmp_path)
            assert done.returncode == 0, f"{page}:{block.line}\n{done.stdout}\n{done.stderr}"


MAX_WIDTH = 150
EVERY_PAGE = sorted([*ROOT.glob("*.md"), ROOT / "data" / "README.md", *ROOT.glob("docs/*.md")])


def test_tables_are_no_wider_than_a_page() -> None:
    """As they are read: without the target of a link."""
    wide = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in EVERY_PAGE
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if line.startswith("|") and len(re.sub(r"\]\([^)]*\)", "]", line)) > MAX_WIDTH
    ]
    assert not wide


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in EVERY_PAGE
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not dead
