"""`featcache verify --adopt` writes the checksums that caches of earlier formats lack."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import featcache as fc
from featcache.errors import CacheError

ARCHIVE = Path(__file__).parents[1] / "compat" / "eab5498.tar.gz"


@pytest.fixture
def old(tmp_path: Path) -> list[Path]:
    """The caches of format 1 in the archive."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return sorted(file.parent for file in tmp_path.rglob("zarr.json") if '"fingerprint"' in file.read_text())


def test_caches_of_before_open_say_what_they_cannot_promise_and_are_adopted(
    old: list[Path], featcache: Callable[..., Result]
) -> None:
    complete = [path for path in old if fc.verify(path, progress=False).unwritten == 0]
    assert complete
    for path in complete:
        before = fc.Cache.open(path)
        labels, spec, ids = before.labels.digest(), before.spec, {name: before[name].ids for name in before}
        found = fc.verify(path, progress=False)
        assert found.whole
        assert found.unknown
        assert "--adopt" in featcache("verify", path).stdout
        featcache("verify", path, "--adopt")
        found = fc.verify(path, progress=False)
        assert found.whole
        assert not found.unknown
        after = fc.Cache.open(path)
        assert (after.labels.digest(), after.spec) == (labels, spec)
        assert after.format == 3
        for name in after:
            after[name].check()
            assert after[name].ids == ids[name]
        (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"seal"', '"sael"'))
        assert not fc.verify(path, progress=False).whole


def test_a_damaged_cache_is_not_adopted(old: list[Path]) -> None:
    path = next(path for path in old if fc.verify(path, progress=False).unwritten == 0)
    shard = next(path.rglob("pooled/c/0/0/0"))
    shard.write_bytes(bytes(shard.stat().st_size))
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(CacheError, match="pooled"):
        fc.verify(path, adopt=True, progress=False)
    assert (path / "zarr.json").read_bytes() == before


def test_a_cache_of_format_2_is_read_and_adopted(tmp_path: Path, make_cache: Callable[..., Path]) -> None:
    path = make_cache(tmp_path / "c.zarr", text=True)
    for file in path.rglob("*.json"):
        text = re.sub(r'"seal": "crc32c:[0-9a-f]{8}",?\s*', "", file.read_text())
        content = json.loads(text)
        content.pop("copies", None)
        content.get("attributes", {}).get("featcache", {}).pop("files", None)
        file.write_text(json.dumps(content).replace('"format": 3', '"format": 2'))
    copy = shutil.copytree(path, tmp_path / "copy.zarr")
    found = fc.verify(path, progress=False)
    assert found.whole
    assert len(found.unknown) > 10
    fc.verify(path, adopt=True, progress=False)
    assert not fc.verify(path, progress=False).unknown
    assert fc.Cache.open(path).labels.digest() == fc.Cache.open(copy).labels.digest()
