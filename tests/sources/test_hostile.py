"""Files and shards from anybody: a sample that is none is a row that failed, at once and in little memory."""

from __future__ import annotations

import gzip
import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.errors import SampleError, SourceError
from featcache.sources import _image, _scan, open_source
from featcache.sources._files import MAX_BYTES
from featcache.sources.base import digest_samples

READ = """
import sys
from featcache.errors import SampleError
from featcache.sources import open_source
from featcache.sources.base import digest_samples

source = open_source(sys.argv[1])["train"]
digest_samples(source)
for row, name in enumerate(source.ids):
    try:
        source[row]
    except SampleError:
        print(name)
"""


OPEN = """
import sys
import featcache

try:
    featcache.open_source(sys.argv[1])
except featcache.errors.FeatcacheError as error:
    print(error)
"""
EXTRACT = """
import sys
from featcache.extraction.options import ExtractOptions
from featcache.stages.extract import describe, dry_run, run_extraction

what = (sys.argv[1], "open_clip:glyph-clip", sys.argv[2])
print(dry_run(*what, tokens="cls").understood.describe())
summaries = run_extraction(*what, ExtractOptions(tokens="cls"))
print(describe("train", summaries["train"]))
"""


def run(*arguments: str) -> str:
    """Return what a process says that may not wait for anything."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def traps(make, monkeypatch):
    """A folder with one image and everything that looks like another; the names of the latter."""
    make.file("set/cat/1.png")
    folder = make.root / "set" / "cat"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    monkeypatch.chdir(folder)  # a socket takes short paths only
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind("socket.jpg")
    names = ("folder", "gone", "huge", "loop", "pipe", "socket", "zero")
    return str(make.root / "set"), [f"cat/{name}.jpg" for name in names]


def test_what_is_no_file_is_a_row_that_failed(traps):
    spec, names = traps
    assert run("-c", READ, spec).split() == names


def test_an_extraction_names_them_and_the_classes_without_a_sample(traps, tmp_path):
    spec, names = traps
    os.mkdir(f"{spec}/dog")
    os.mkfifo(f"{spec}/dog/1.png")
    said = run("-c", EXTRACT, spec, str(tmp_path / "cache.zarr"))
    assert "dog 1" in said
    assert f"{len(names) + 1} failed" in said
    assert all(name in said for name in names)
    assert said.rstrip().endswith("class dog")


@pytest.mark.parametrize("spec", ["a.txt", "a.tar", "text:a.csv", "filelist:a.csv", "parquet:a.parquet"])
def test_a_pipe_is_no_source(make, monkeypatch, spec):
    monkeypatch.chdir(make.root)
    os.mkfifo(spec.partition(":")[2] or spec)
    assert "a named pipe" in run("-c", OPEN, spec)


def test_a_pipe_among_shards_is_named(make):
    make.tar("set/a.tar", {"a.png": make.png()})
    os.mkfifo(make.root / "set" / "b.tar")
    (make.root / "set" / "c.tar").symlink_to("gone.tar")
    with pytest.raises(SourceError, match=r"(?s)2 of 3.*b.tar, c.tar"):
        open_source(str(make.root / "set"))


def test_names_in_a_list_that_are_no_files(make):
    names = ["1.png", "a\0b.png", "x" * 300, "\udcff\ud800.png", "/dev/zero", "../" * 40 + "dev/zero", "."]
    make.file("1.png")
    source = open_source(make.jsonl("set.jsonl", [{"path": name} for name in names[:4] + names[4:5] + ["."]]))
    source = source["train"]
    assert len(source) == 6
    assert len(digest_samples(source)) == 64
    for row in range(1, 6):
        with pytest.raises(SampleError, match="cannot be read"):
            source[row]


@pytest.mark.parametrize(
    "data", [b"path,label\ra.png,cat\r", b"path\n" + b"x" * 2**18, b"pa\rth,label\n1,2\n"]
)
def test_a_table_that_is_no_csv(make, data):
    with pytest.raises(SourceError, match="malformed"):
        open_source("filelist:" + make.file("a.csv", data))


def test_decoding_ends(make, monkeypatch):
    monkeypatch.setattr(_image, "MAX_SECONDS", -1)
    with pytest.raises(SampleError, match="too long"):
        _image.decode(make.png())


def test_pixels_are_limited_where_pillow_is_told_not_to(make, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = bytearray(make.png(Image.new("L", (16, 16)), "BMP"))
    data[18:26] = (20_000).to_bytes(4, "little") * 2
    with pytest.raises(SampleError, match="too large"):
        _image.decode(bytes(data))


def test_postscript_never_reaches_an_interpreter():
    with pytest.raises(SampleError, match="not an image"):
        _image.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n")


def test_lack_of_memory_is_no_fault_of_the_sample(make, monkeypatch):
    def lacking(*_: object) -> None:
        raise MemoryError

    make.file("set/1.png")
    source = open_source(str(make.root / "set"))["train"]
    monkeypatch.setattr(Image.Image, "convert", lacking)
    with pytest.raises(SourceError, match="memory"):
        source[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "I;16", "F"])
def test_the_largest_image_takes_little_more_than_a_gigabyte(make, mode):
    side = int(_image.MAX_PIXELS**0.5)
    shades = {"I;16": np.uint16, "F": np.float32}.get(mode)
    image = (
        Image.new(mode, (side, side)) if shades is None else Image.fromarray(np.zeros((side, side), shades))
    )
    kind = "JPEG" if mode == "CMYK" else "TIFF" if mode == "F" else "PNG"
    spec = make.file(
        "large", make.png(image, kind, **({"compression": "tiff_deflate"} if mode == "F" else {}))
    )
    measure = (
        "import pathlib, sys\n"
        "from featcache.sources._image import decode\n"
        "decode(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"  # getrusage counts the parent's too
        "print(int(status.partition('VmHWM:')[2].split()[0]) // 1024)"
    )
    assert int(run("-c", measure, spec)) < 1200


def shard(make, *members):
    """Write a shard of (name, content), or of (name, type, target)."""
    with tarfile.open(make.path("a.tar"), "w") as tar:
        for name, content, *target in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = content.encode(), target[0] if target else ""
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(make.root / "a.tar")


LINK, HARD, DEVICE, PIPE = (
    kind.decode() for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
)


def test_members_that_are_no_files_keep_their_rows(make):
    spec = shard(
        make,
        ("a.png", make.png()),
        ("sub/link.png", LINK, "../a.png"),
        ("hard.png", HARD, "./a.png"),
        ("again.png", HARD, "hard.png"),
        ("out.png", LINK, "/etc/passwd"),
        ("up.png", LINK, "../../../etc/passwd"),
        ("self.png", LINK, "self.png"),
        ("device.png", DEVICE),
        ("pipe.png", PIPE),
    )
    source = open_source(spec)["train"]
    assert [name.partition("/")[2] for name in source.ids[:4]] == ["a", "sub/link", "hard", "again"]
    assert {source.content(row) for row in range(4)} == {make.png()}
    assert len(source) == 9
    for row, said in zip(range(4, 9), ("passwd", "passwd", "self", "a device", "a named pipe"), strict=True):
        with pytest.raises(SampleError, match=f"(?s)no image.*{said}"):
            source.content(row)


def test_names_that_lead_out_of_the_shard_write_nothing(make):
    names = ("../up.png", "/abs.png", "c\x1b[31m\n.png")
    source = open_source(shard(make, *((name, make.png()) for name in names)))["train"]
    assert [source.content(row) for row in range(3)] == [make.png()] * 3
    assert sorted(path.name for path in make.root.iterdir()) == ["a.tar"]
    assert not Path(make.root, "..", "up.png").exists()


def test_a_sparse_member_is_named(make):
    path = Path(shard(make, ("a.png", bytes(512)), ("b.png", make.png())))
    data = bytearray(path.read_bytes())
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[386:482] = bytes(96)
    data[483:495] = b"%011o\0" % 10**9  # its size when it is unpacked
    _sum(data, 0)
    path.write_bytes(data)
    source = open_source(str(path))["train"]
    with pytest.raises(SampleError, match="sparse"):
        source[0]
    assert source.content(1) == make.png()


def _sum(data: bytearray, at: int) -> None:
    """Write the checksum of the header at an offset."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


@pytest.mark.parametrize(
    "size", [b"%011o\0" % 8**10, b"\x80" + (2**62).to_bytes(11, "big"), b"\xff" * 11 + b"\x00"]
)
def test_a_size_that_cannot_be_is_refused(make, size):
    path = Path(shard(make, ("a.png", make.png()), ("b.png", make.png())))
    data = bytearray(path.read_bytes())
    data[124:136] = size
    _sum(data, 0)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read as a tar"):
        open_source(str(path))


def test_a_bomb_is_never_unpacked(make):
    path = make.path("a.tar")
    with gzip.open(path, "wb", compresslevel=9) as stream:
        for _ in range(64):
            stream.write(bytes(2**20))
    with pytest.raises(SourceError, match="uncompressed"):
        open_source(str(path))


def test_labels_are_limited_and_never_two(make):
    with pytest.raises(SourceError, match=r"(?s)label cannot be read.*a.cls"):
        open_source(shard(make, ("a.png", make.png()), ("a.cls", bytes(2**24 + 1))))
    with pytest.raises(SourceError, match=r"(?s)two members `.cls`.*a.cls"):
        open_source(shard(make, ("a.png", make.png()), ("a.cls", b"1"), ("a.cls", b"2")))
    with pytest.raises(SourceError, match="malformed"):
        open_source(shard(make, ("a.png", make.png()), ("a.json", b'{"a":' * 100_000)))


def test_class_names_that_are_no_text(make):
    spec = shard(make, ("a.png", make.png()))
    make.file("classes.txt", b"\xff\xfe")
    with pytest.raises(SourceError, match=r"(?s)class names.*classes.txt"):
        open_source(spec)


def test_a_shard_that_is_cut_after_it_was_opened(make):
    path = Path(shard(make, ("a.png", make.png())))
    source = open_source(str(path))["train"]
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(SampleError, match="ends within"):
        source.content(0)


def test_links_between_folders_come_to_an_end(make, monkeypatch):
    monkeypatch.setattr(_scan, "_MAX_LINKED", 100)
    for name in "abcdefghij":
        make.file(f"set/{name}/1.png")
    for one in "abcdefghij":
        for other in "abcdefghij":
            (make.root / "set" / one / f"to_{other}").symlink_to(f"../{other}")
    with pytest.raises(SourceError, match="links"):
        open_source(str(make.root / "set"))


def test_a_folder_that_cannot_be_listed_is_no_silence(make, monkeypatch):
    make.file("set/cat/1.png")
    monkeypatch.chdir(make.root / "set")
    for _ in range(20):  # longer than a path may be
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(SourceError, match=r"(?s)cannot be listed.*ddd"):
        open_source(str(make.root / "set"))
