"""Small data sets in every format, all with the same six samples."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("cat", "dog")


class Sample(NamedTuple):
    pixels: NDArray[np.uint8]
    """(4, 5, 3)"""
    label: int

    @property
    def text(self) -> str:
        return f'pixel, "{self.pixels[0, 0, 0]}"\nand more'


class Make:
    """Writes files below `root`; each method writes one and returns its path as a source's spec."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def png(
        self, image: NDArray[Any] | Image.Image | None = None, kind: str = "PNG", **options: Any
    ) -> bytes:
        if image is None:
            image = np.zeros((2, 2, 3), np.uint8)
        stream = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
        return stream.getvalue()

    def file(self, name: str, data: bytes | None = None) -> str:
        path = self.path(name)
        path.write_bytes(self.png() if data is None else data)
        return str(path)

    def csv(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        path = self.path(name)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
        return str(path)

    def jsonl(self, name: str, records: Sequence[object]) -> str:
        return self.file(name, "".join(json.dumps(record) + "\n" for record in records).encode())

    def parquet(
        self,
        name: str,
        columns: Mapping[str, object],
        class_names: Sequence[str] | None = None,
        label: str = "label",
        group: int = 4,
    ) -> str:
        path, table = self.path(name), pa.table(columns)
        if class_names is not None:
            feature = {"_type": "ClassLabel", "names": list(class_names)}
            metadata = json.dumps({"info": {"features": {label: feature}}})
            table = table.replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, path, row_group_size=group)
        return str(path)

    def tar(self, name: str, members: Mapping[str, bytes]) -> str:
        path = self.path(name)
        with tarfile.open(path, "w") as tar:
            for member_name, data in members.items():
                member = tarfile.TarInfo(member_name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return str(path)

    def hdf5(self, name: str, arrays: Mapping[str, object]) -> str:
        path = self.path(name)
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                file[key] = values
        return str(path)


def _folder(make: Make, samples: Sequence[Sample]) -> str:
    for row, sample in enumerate(samples):
        make.file(f"images/{CLASSES[sample.label]}/{row}.png", make.png(sample.pixels))
    return str(make.root / "images")


def _parquet(make: Make, samples: Sequence[Sample]) -> str:
    images = [{"bytes": make.png(sample.pixels), "path": f"{row}.png"} for row, sample in enumerate(samples)]
    return make.parquet(
        "set.parquet", {"image": images, "label": [sample.label for sample in samples]}, CLASSES
    )


def _parquet_bytes(make: Make, samples: Sequence[Sample]) -> str:
    for shard in (0, 1):
        part = samples[shard * 3 : shard * 3 + 3]
        images, labels = [make.png(sample.pixels) for sample in part], [sample.label for sample in part]
        columns = {"image": images, "label": labels}
        make.parquet(f"set/train-0000{shard}-of-00002.parquet", columns, CLASSES, group=2)
    return str(make.root / "set")


def _parquet_text(make: Make, samples: Sequence[Sample]) -> str:
    columns = {"sentence": [sample.text for sample in samples], "label": [sample.label for sample in samples]}
    return make.parquet("set.parquet", columns, CLASSES)


def _webdataset(make: Make, samples: Sequence[Sample]) -> str:
    for shard in (0, 1):
        members = {}
        for row in range(shard * 3, shard * 3 + 3):
            members[f"{row:04d}.png"] = make.png(samples[row].pixels)
            members[f"{row:04d}.cls"] = str(samples[row].label).encode()
            members[f"{row:04d}.txt"] = b"a caption"
        make.tar(f"{shard:03d}.tar", members)
    make.file("classes.txt", "\n".join(CLASSES).encode())
    return str(make.root / "{000..001}.tar")


def _pixels(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    return np.stack([sample.pixels for sample in samples])


def _labels(samples: Sequence[Sample]) -> NDArray[np.int64]:
    return np.array([sample.label for sample in samples])


def _names(samples: Sequence[Sample]) -> NDArray[np.str_]:
    return np.array(CLASSES)[_labels(samples)]


def _hdf5(make: Make, samples: Sequence[Sample]) -> str:
    arrays = {"images": _pixels(samples), "labels": _labels(samples), "class_names": list(CLASSES)}
    return make.hdf5("set.h5", arrays)


def _npy(make: Make, samples: Sequence[Sample]) -> str:
    np.save(make.path("x.npy"), _pixels(samples))
    np.save(make.path("y.npy"), _names(samples))
    return str(make.root / "x.npy")


def _npz(make: Make, samples: Sequence[Sample]) -> str:
    np.savez(make.path("set.npz"), x=_pixels(samples), y=_labels(samples), class_names=np.array(CLASSES))
    return str(make.root / "set.npz")


def _npz_compressed(make: Make, samples: Sequence[Sample]) -> str:
    np.savez_compressed(make.path("set.npz"), images=_pixels(samples), labels=_names(samples))
    return str(make.root / "set.npz")


def _listed(make: Make, samples: Sequence[Sample]) -> list[tuple[str, str]]:
    for row, sample in enumerate(samples):
        make.file(f"{row}.png", make.png(sample.pixels))
    return [(f"{row}.png", CLASSES[sample.label]) for row, sample in enumerate(samples)]


def _filelist_csv(make: Make, samples: Sequence[Sample]) -> str:
    return make.csv("set.csv", ["path", "label"], _listed(make, samples))


def _filelist_jsonl(make: Make, samples: Sequence[Sample]) -> str:
    rows = _listed(make, samples)
    return make.jsonl("set.jsonl", [{"file_name": name, "label": label} for name, label in rows])


def _text_csv(make: Make, samples: Sequence[Sample]) -> str:
    rows = [(CLASSES[sample.label], sample.text) for sample in samples]
    return make.csv("set.csv", ["label", "text"], rows)


def _text_jsonl(make: Make, samples: Sequence[Sample]) -> str:
    return make.jsonl(
        "set.jsonl", [{"text": sample.text, "label": CLASSES[sample.label]} for sample in samples]
    )


def _text_lines(make: Make, samples: Sequence[Sample]) -> str:
    return make.file("set.txt", "\n\n".join(sample.text.replace("\n", " ") for sample in samples).encode())


Build = Callable[[Make, Sequence[Sample]], str]

FORMATS: dict[str, Build] = {
    "folder": _folder,
    "parquet": _parquet,
    "parquet-bytes": _parquet_bytes,
    "parquet-text": _parquet_text,
    "webdataset": _webdataset,
    "hdf5": _hdf5,
    "array-npy": _npy,
    "array-npz": _npz,
    "array-npz-compressed": _npz_compressed,
    "filelist-csv": _filelist_csv,
    "filelist-jsonl": _filelist_jsonl,
    "text-csv": _text_csv,
    "text-jsonl": _text_jsonl,
    "text-lines": _text_lines,
}


class Format:
    """One format, and the six samples; `build` writes them below a new folder and returns the spec."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self._root = name, root
        self.text, self.labelled = "text" in name, name != "text-lines"
        pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
        self.samples = [Sample(image, row // 3) for row, image in enumerate(pixels)]

    def build(self, folder: str, samples: Sequence[Sample] | None = None) -> str:
        """Return the spec with its format."""
        path = FORMATS[self.name](Make(self._root / folder), samples or self.samples)
        return f"{self.name.partition('-')[0]}:{path}"

    def content(self, sample: Sample) -> NDArray[np.uint8] | str:
        if not self.text:
            return sample.pixels
        return sample.text.replace("\n", " ") if self.name == "text-lines" else sample.text


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest, tmp_path: Path) -> Format:
    return Format(request.param, tmp_path)


@pytest.fixture
def every_format(tmp_path: Path) -> list[Format]:
    return [Format(name, tmp_path / name) for name in FORMATS]
