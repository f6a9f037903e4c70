"""Shared fixtures: images, frozen modules, the commands, and caches of random features."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
SIZES = [(20, 24), (32, 32), (18, 40), (25, 17)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-write", action="store_true", help="Store what tests/golden compares with.")
    parser.addoption("--scale", type=float, default=0.02, help="How much of tests/torture; 1 is all of it.")


@pytest.fixture(autouse=True, scope="session")
def same_date() -> Iterator[None]:
    """Caches record the date; with this one, also in other processes, equal caches have equal bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        yield


@pytest.fixture(scope="session")
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond `size` bytes: what a full disk does, without filling one."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These tensors are tiny, and idle threads spin."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_cache() -> Callable[..., Path]:
    """Writes a cache of made-up features, the same ones every time, as extraction would."""
    return write_cache


@pytest.fixture(scope="session")
def summaries_of() -> Callable[..., dict[str, Any]]:
    """Takes the arguments of `extract`, and returns the summaries by split."""
    from featcache.extraction.options import ExtractOptions
    from featcache.stages.extract import run_extraction

    def run(source: Any, model: str, out: Path, **options: Any) -> dict[str, Any]:
        how = {name: options.pop(name) for name in ("overwrite", "device") if name in options}
        return run_extraction(source, model, out, ExtractOptions.of(options), **how)

    return run


def write_cache(
    path: Path,
    *,
    splits: Mapping[str, Sequence[int]] | None = None,
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    failed: Mapping[str, Sequence[int]] | None = None,
    weak: int = 0,
    strong: int = 0,
    dtype: str = "float32",
    mask: bool = False,
    text: bool = False,
    layers: tuple[int, ...] = (-1,),
    pooled: int = 8,
    unwritten: int = 0,
    digests: bool = False,
) -> Path:
    """`splits`: the labels by name; `failed`: their failed rows; `unwritten`: how many units to leave out;
    `digests`: whether to keep one of each sample."""
    from featcache.cache.labels import LabelTable
    from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec, TokenArray
    from featcache.cache.writer import CacheWriter
    from featcache.specs import ViewSpec

    splits = splits or {"train": [row % 3 for row in range(30)], "test": [row % 3 for row in range(18)]}
    spec = CacheSpec(
        encoder=encoder_spec("made-up"),
        layers=layers,
        tokens="all",
        views=ViewSpec(weak=weak, strong=strong),
        dtype=dtype,
    )
    arrays = tuple(TokenArray(layer=layer, tokens=5, dim=8) for layer in layers)
    shapes = Shapes(layers=arrays, pooled=pooled, mask=mask)
    if dtype == "int8":
        shapes = shapes.with_std({layer: np.linspace(0.5, -2 * layer, 8).tolist() for layer in layers})
    with CacheWriter(path, spec, layout=LayoutSpec(shard_size="16")) as writer:
        for name, labels in splits.items():
            rows, ids = (
                SplitSpec(content=f"digest of {name}", rows=len(labels)),
                _ids(name, len(labels)),
            )
            content = np.arange(1, len(labels) + 1, dtype=np.uint64) if digests else None
            split = writer.split(name, rows, ids, shapes, content)
            writer.label(LabelTable(classes, {name: np.array(labels)}))
            if text:
                writer.class_text(_centres(len(classes), pooled), classes, ("a photo of a {}.",))
            units = split.missing()
            for unit in units[: len(units) - unwritten]:
                with split.begin(unit) as out:
                    lost = dict.fromkeys((failed or {}).get(name, ()), "truncated JPEG")
                    out.append(**_features(name, unit, labels, shapes), failed=lost)
                    out.commit()
    return path


def encoder_spec(name: str) -> Any:
    """The spec of a model that does not exist."""
    from featcache.specs import EncoderSpec

    return EncoderSpec(
        name=name, weights="0" * 64, modality="image", preprocess="none", norm="none", projection="none"
    )


def _features(name: str, unit: Any, labels: Sequence[int], shapes: Any) -> dict[str, Any]:
    rng = np.random.default_rng([len(name), unit.start, unit.view])
    rows, kinds = unit.stop - unit.start, max(*labels, 0) + 1
    here = np.asarray(labels)[unit.start : unit.stop]
    noise = rng.standard_normal((rows, 5, 8)).astype(np.float32)
    tokens = noise + _centres(kinds, 8)[here][:, None]
    average = noise.mean(1) @ np.eye(8, shapes.pooled, dtype=np.float32)
    lengths = rng.integers(1, 5, rows)
    return {
        "tokens": {array.layer: -array.layer * tokens for array in shapes.layers},
        "pooled": average + _centres(kinds, shapes.pooled)[here],
        "mask": np.arange(5) < lengths[:, None] if shapes.mask else None,
    }


def _centres(classes: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((classes, dim)).astype(np.float32)


def _ids(name: str, rows: int) -> list[str]:
    return [f"{name}/{row:03}.png" for row in range(rows)]


def photo(path: Path, row: int) -> None:
    """An image of its own for every row, of several sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(row)
    Image.fromarray(rng.integers(0, 256, (*SIZES[row % 4], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images: `train` 0 to 4 are cats, 5 to 9 dogs; `test` 0 and 1 are cats, 2 and 3 dogs."""
    for split, rows in (("train", 10), ("test", 4)):
        for row in range(rows):
            name = f"{'cat' if row < rows // 2 else 'dog'}/{row:02}.png"
            photo(tmp_path / "photos" / split / name, row + {"train": 5, "test": 24}[split])
    return tmp_path / "photos"


@pytest.fixture
def images() -> list[Image.Image]:
    """Five RGB images of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (64, 64), (90, 33), (32, 32), (48, 70)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="session")
def frozen() -> Callable[[str], str]:
    """The model that a factory in `frozen_modules.py` makes, as the command line takes it."""
    return lambda factory: f"python:{HERE / 'frozen_modules.py'}:{factory}"


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Mapping[str, bytes]]:
    """Every file below a folder, and its bytes."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    return read


@pytest.fixture(scope="session")
def edit_run() -> Callable[..., None]:
    """Changes values of a JSON file of a finished run, as if the training had written them."""
    from featcache.runs.run import RunFolder
    from featcache.runs.saved import RESULT, read_json

    def edit(folder: Path, name: str, **values: Any) -> None:
        run = RunFolder(folder)
        content, result = read_json(folder / name), run.result()
        assert content is not None
        assert result is not None
        (folder / RESULT).unlink()
        if name == RESULT:
            result |= values
        else:
            run.write(name, content | values)
        run.finish(result)

    return edit


@pytest.fixture(scope="session")
def reseal() -> Callable[[str], bytes]:
    """The text of a sealed file, changed, as its writer would have sealed it."""
    from featcache.seal import OPEN, seal

    return lambda text: seal(re.sub("crc32c:[0-9a-f]{8}", OPEN, text, count=1).encode())


@pytest.fixture(scope="session")
def featcache() -> Callable[..., Result]:
    """Runs a command in this process; anything but a clean exit fails the test."""
    from featcache.cli import main

    def run(*arguments: object, code: int = 0) -> Result:
        wide = CliRunner(env={"COLUMNS": "200"})  # a table leaves nothing out, whatever terminal there is
        result = wide.invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python program of the tests, or the command line (`cli.py`), as a process of its own."""

    def run(*arguments: object, program: Path = HERE.parent / "cli.py", **options: Any) -> Any:
        command = [sys.executable, "-W", "error", str(program), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, **(pipes | options))

    return run
