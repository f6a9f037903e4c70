"""Feed a parser with inputs made of good ones, in a process of its own, for some seconds.

python fuzzing.py PARSER SECONDS SEED FOLDER

Prints one line of JSON: inputs, those refused with a sentence, tracebacks, hangs (more than 10 s), and the
peak of memory beyond that of the imports. An input that ends in a traceback or hangs is kept in FOLDER; made
small, it belongs into corpus/PARSER, where every later run begins.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import featcache as fc
from featcache.config import parse_overrides
from featcache.errors import FeatcacheError
from featcache.seal import OPEN, is_whole, seal
from featcache.stages.pipeline import load
from featcache.training.options import TrainOptions
from tests.torture.commands import extraction, training

PATIENCE = 10
CORPUS = Path(__file__).with_name("corpus")
Parser = Callable[[bytes], object]
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e400, -1e400, float("nan"), 0.5]
ODD = [
    *NUMBERS,
    "",
    "x",
    "\x1b[31m",
    "../../x",
    "/",
    "é" * 3000,
    None,
    True,
    [],
    {},
    [[]] * 50,
    {"a": {"a": {}}},
]
WORDS = [
    b"NaN",
    b"-1",
    b"1e999",
    b"null",
    b"{",
    b"[" * 500,
    b"\0",
    b"\xff\xfe",
    b"\r\n",
    b'"',
    b",",
    b"../",
    b"=1",
]


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return bytes near to `data`."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(made) + 1), rng.choice([1, 2, 4, 16, 256])
        match rng.randrange(7):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1:
                made[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * size
            case 2:
                del made[at : at + size]
            case 3:
                made[at:at] = rng.choice(WORDS)
            case 4:
                del made[at:]
            case 5:
                made[at:at] = made[: rng.randrange(len(made) + 1)][-size:]
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                made[at : at + size] = other[start : start + size]
    return bytes(made)


def mutated_json(value: object, rng: random.Random) -> object:
    """Return JSON in which one value or key is another one."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(ODD)
    copy = value.copy()
    at = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    if rng.random() < 0.15:
        del copy[at]  # type: ignore[arg-type]
    else:
        copy[at] = mutated_json(copy[at], rng)  # type: ignore[index, call-overload]
    return copy


def any_mutation(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return bytes near to `data`; of JSON mostly other JSON, sealed as a hostile writer would."""
    if rng.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            made = json.dumps(mutated_json(json.loads(data), rng), indent=2)
            found = made.encode(errors="surrogatepass")
            if is_whole(data):
                start = made.find('"crc32c:')
                found = (made[: start + 1] + OPEN + made[start + 1 + len(OPEN) :]).encode(
                    errors="surrogatepass"
                )
                with contextlib.suppress(ValueError):
                    return seal(found)
            return found
    return mutated(data, rng, others)


def fuzz(
    seeds: list[bytes], parse: Parser, seconds: float, rng: random.Random, folder: Path
) -> dict[str, float]:
    """Parse inputs for some seconds, and count how they end."""
    counts = {"inputs": 0, "refused": 0, "tracebacks": 0, "hangs": 0}
    with contextlib.suppress(FeatcacheError):
        parse(seeds[0])  # what it imports is no memory of an input
    before, end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() + seconds
    waiting = list(seeds)
    while time.monotonic() < end:
        data = waiting.pop() if waiting else any_mutation(rng.choice(seeds), rng, seeds)
        counts["inputs"] += 1
        signal.alarm(PATIENCE)
        try:
            parse(data)
        except FeatcacheError:
            counts["refused"] += 1
        except BaseException as error:
            counts["hangs" if isinstance(error, TimeoutError) else "tracebacks"] += 1
            (folder / f"found-{counts['inputs']}").write_bytes(data)
            traceback.print_exc()
        finally:
            signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**counts, "megabytes": round((peak - before) / 1024)}


def _late(*_: object) -> None:
    raise TimeoutError


def command(*arguments: object) -> None:
    """Run a command of featcache in this process."""
    from click.testing import CliRunner

    from featcache.cli import main

    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise FeatcacheError(result.output)


def as_file(folder: Path, name: str, parse: Callable[[Path], object]) -> Parser:
    """Return a parser of a file that is written anew for each input."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return parse(path)

    return run


def read_source(path: Path) -> None:
    """Open a source and read a few samples of each split, as an extraction does."""
    from featcache.sources.base import digest_samples

    for source in fc.open_source(str(path)).values():
        digest_samples(source)
        for row in range(min(3, len(source))):
            with contextlib.suppress(FeatcacheError):
                source[row]


def source_seeds(folder: Path) -> dict[str, tuple[str, list[bytes]]]:
    """Return the file name and good inputs of each format of sources."""
    import io
    import tarfile

    import h5py
    import pyarrow
    import pyarrow.parquet

    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images: list[bytes] = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(pixels[0]).save(out, form)
        images.append(out.getvalue())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (
            ("a.png", images[0]),
            ("a.cls", b"1"),
            ("b.png", images[0]),
            ("b.json", b'{"label": 2}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez(npz, images=pixels, labels=np.arange(4))
    np.save(npy, pixels)
    table = pyarrow.table({"image": images[:3], "label": ["a", "b", "a"]})
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with h5py.File(folder / "seed.h5", "w") as file:
        file["images"], file["labels"] = pixels, np.arange(4)
    return {
        "image": ("set/cat/a.png", images),
        "tar": ("a.tar", [tar.getvalue()]),
        "npz": ("a.npz", [npz.getvalue()]),
        "npy": ("a.npy", [npy.getvalue()]),
        "parquet": ("a.parquet", [parquet.getvalue()]),
        "hdf5": ("a.h5", [(folder / "seed.h5").read_bytes()]),
        "csv": ("a.csv", [b'text,label\na cup,cat\n"two\nlines",dog\n', b"path\tlabel\nx.png\t1\n"]),
        "jsonl": ("a.jsonl", [b'{"text": "a", "label": "cat"}\n{"text": "b", "label": null}\n']),
        "txt": ("a.txt", [b"one line\nanother\n"]),
    }


def made(folder: Path) -> tuple[Path, Path]:
    """Return a small cache and a run."""
    cache, run = folder / "c.zarr", folder / "run"
    command(*extraction(cache))
    command(*training(cache, run))
    return cache, run


def open_cache(path: Path) -> None:
    """Use all that a cache says of itself."""
    cache = fc.Cache.open(path)
    repr(cache)
    for name in cache:
        split = cache[name]
        _ = split.ids[:3], split.labels, split.complete()
        split.embeddings()
    fc.verify(path, progress=False)


def parser(name: str, folder: Path) -> tuple[list[bytes], Parser]:
    """Return the good inputs of a parser, and how to call it."""
    if name in (sources := source_seeds(folder)):
        file, seeds = sources[name]
        if name == "image":
            return seeds, as_file(folder, file, lambda path: read_source(folder / "set"))
        return seeds, as_file(folder, file, read_source)
    if name == "options":
        seeds = [
            b"optim.steps=3",
            b"projector.heads=2",
            b"optim.lr=1e-3",
            b"data.verify=off",
            b"cv=3",
            b"a.b.c=[1]",
        ]
        return seeds, lambda data: read_options(data.decode(errors="surrogateescape"))
    if name == "pipeline":
        seeds = [p.read_bytes() for p in sorted((Path(fc.__file__).parents[1] / "pipelines").glob("*.toml"))]
        return seeds, as_file(folder, "p.toml", load)
    cache, run = made(folder)
    if name == "labels":
        seeds = ["id,label\n" + "".join(f"{i},cat\n" for i in fc.Cache.open(cache)["train"].ids)]
        parse = as_file(folder, "labels.csv", lambda path: command("label", cache, "--from", path))
        return [text.encode() for text in seeds], parse
    if name == "run":
        return _one_of(
            run, ["config.json", "result.json", "labels.json", "task.safetensors"], _use_run(cache)
        )
    patterns = {"metadata": "**/zarr.json", "ledger": "train/status/ledger/*.json"}
    return _one_of(cache, [str(p.relative_to(cache)) for p in sorted(cache.glob(patterns[name]))], open_cache)


def read_options(text: str) -> None:
    """Parse what `--set` takes, and the options of a training in it."""
    TrainOptions.parse(parse_overrides([text]), "the options")


def _use_run(cache: Path) -> Callable[[Path], object]:
    def use(path: Path) -> None:
        out = path.parent / "p.csv"
        for arguments in (("compare", path), ("predict", path, cache, "--out", out)):
            with contextlib.suppress(FeatcacheError):
                command(*arguments)
        command("verify", path)

    return use


def _one_of(folder: Path, names: list[str], use: Callable[[Path], object]) -> tuple[list[bytes], Parser]:
    """Return a parser that puts each input in the place of a file of a folder, and takes it back."""
    seeds = [(folder / name).read_bytes() for name in names]
    rng = random.Random(0)

    def parse(data: bytes) -> object:
        name = rng.choice(names)
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        try:
            return use(folder)
        finally:
            (folder / name).write_bytes(before)

    return seeds, parse


def main() -> None:
    """Fuzz one parser."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _late)
    name, seconds, seed, folder = sys.argv[1], float(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    os.chdir(folder)
    work = folder / "work"
    work.mkdir()
    seeds, parse = parser(name, work)
    seeds += [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    found = fuzz(seeds, parse, seconds, random.Random(f"{name} {seed}"), folder)
    shutil.rmtree(work)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
