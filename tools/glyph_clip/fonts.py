"""The open fonts that glyph-clip learns from: fetched from the npm registry, checked, and never shipped.

`fonts.json` pins every `@fontsource` package by version, SHA-512 and licence (OFL-1.1 or Apache-2.0).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

LOCK = Path(__file__).with_name("fonts.json")
_WEIGHTS = (400, 700)
_AT_ONCE = 8


def fetch(folder: Path) -> list[Path]:
    """Every font file (.woff) of the lock, in the order of their names; what `folder` lacks is downloaded.

    Raises OSError where the registry cannot be reached, ValueError where a package is not the pinned one.
    """
    lock: dict[str, dict[str, str]] = json.loads(LOCK.read_text())
    absent = [name for name in lock if not (folder / name).is_dir()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        packages = pool.map(lambda name: (name, _package(name, lock[name])), absent)
        for name, files in tqdm(packages, total=len(absent), desc="fonts", disable=not absent):
            _keep(folder / name, files)
    fonts = [file for name in lock for file in (folder / name).glob("*.woff")]
    return sorted(fonts, key=lambda file: file.name)


def _keep(package: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: half a package would be another training set."""
    partial = package.with_name(f".{package.name}")
    partial.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (partial / file).write_bytes(content)
    partial.rename(package)


def _package(name: str, pin: dict[str, str]) -> dict[str, bytes]:
    url = f"https://registry.npmjs.org/@fontsource/{name}/-/{name}-{pin['version']}.tgz"
    with urllib.request.urlopen(url, timeout=120) as response:
        packed = response.read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if found != pin["integrity"]:
        raise ValueError(f"{url} is not the pinned package: {found}, expected {pin['integrity']}")
    return dict(_latin(name, packed))


def _latin(name: str, packed: bytes) -> Iterator[tuple[str, bytes]]:
    wanted = {f"package/files/{name}-latin-{weight}-normal.woff" for weight in _WEIGHTS}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.name in wanted and (content := archive.extractfile(member)):
                yield Path(member.name).name, content.read()
