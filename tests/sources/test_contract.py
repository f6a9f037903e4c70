"""The contract of all sources, for each format."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import SourceError
from featcache.sources import open_source
from featcache.sources.base import UNLABELLED, digest_samples, limit


def read(source):
    return [np.asarray(sample).tolist() for sample in (source[row] for row in range(len(source)))]


def test_content_labels_and_names(format):
    source = open_source(format.build("a"))["train"]
    assert len(source) == 6
    assert source.modality == ("text" if format.text else "image")
    for row, sample in enumerate(format.samples):
        assert np.array_equal(np.asarray(source[row]), format.content(sample))
    assert source.labels.dtype == np.int64
    expected = [sample.label for sample in format.samples] if format.labelled else [UNLABELLED] * 6
    assert source.labels.tolist() == expected
    assert source.class_names == (("cat", "dog") if format.labelled else ())


def test_ids_are_unique_and_relative(format, tmp_path):
    source = open_source(format.build("a"))["train"]
    assert len(set(source.ids)) == len(source.ids) == 6
    assert not any(str(tmp_path) in name or name.startswith("/") for name in source.ids)


def test_images_are_plain_rgb(format):
    sample = open_source(format.build("a"))["train"][0]
    if format.text:
        assert type(sample) is str
    else:
        assert (sample.mode, sample.size) == ("RGB", (5, 4))


def test_two_opens_agree_wherever_the_files_lie(format, tmp_path):
    spec = format.build("a")
    first = open_source(spec)["train"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = open_source(spec.replace(str(tmp_path / "a"), str(tmp_path / "b")))["train"]
    assert digest_samples(first) == digest_samples(first) == digest_samples(second)
    assert list(first.ids) == list(second.ids)
    assert read(first) == read(second)


def test_digest_covers_the_content_of_each_sample_and_no_label(format):
    source = open_source(format.build("a"))["train"]
    digests, older = {digest_samples(source)}, {digest_samples(source, labels=True)}
    for row, sample in enumerate(format.samples):
        pixels = sample.pixels.copy()
        pixels[0, 0, 0] ^= 1
        changed = [*format.samples]
        changed[row] = sample._replace(pixels=pixels)
        digests.add(digest_samples(open_source(format.build(f"pixel-{row}", changed))["train"]))
    assert len(digests) == 7
    if format.labelled:
        for row, sample in enumerate(format.samples):
            changed = [*format.samples]
            changed[row] = sample._replace(label=1 - sample.label)
            relabelled = open_source(format.build(f"label-{row}", changed))["train"]
            if list(relabelled.ids) == list(
                source.ids
            ):  # the id of an image may name the folder of its class
                assert digest_samples(relabelled) == digest_samples(source)
            older.add(digest_samples(relabelled, labels=True))
        assert len(older) == 7


def test_digest_covers_order(format):
    first = open_source(format.build("a"))["train"]
    swapped = [*format.samples[:4], format.samples[5], format.samples[4]]
    second = open_source(format.build("b", swapped))["train"]
    assert digest_samples(first) != digest_samples(second)


def test_random_access_equals_sequential(format):
    source = open_source(format.build("a"))["train"]
    sequential = read(source)
    for row in (5, 0, 3, 3, 1, 4, 2, -1, -6):
        assert np.asarray(source[row]).tolist() == sequential[row]
    for row in (6, -7):
        with pytest.raises(IndexError):
            source[row]


def test_pickle_before_and_after_use(format):
    source = open_source(format.build("a"))["train"]
    fresh = pickle.dumps(source)
    content, digest = read(source), digest_samples(source)
    for copy in (pickle.loads(fresh), pickle.loads(pickle.dumps(source))):
        assert (read(copy), digest_samples(copy)) == (content, digest)
        assert list(copy.ids) == list(source.ids)
        assert copy.labels.tolist() == source.labels.tolist()


def test_spawned_workers_read_every_format(every_format):
    sources = [open_source(format.build("a"))["train"] for format in every_format]
    digests = [digest_samples(source) for source in sources]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_digest, sources) == digests


def _digest(source):
    return digest_samples(source)


def test_threads_share_a_source(format):
    source = open_source(format.build("a"))["train"]
    rows = np.random.default_rng(0).integers(0, 6, 200).tolist()
    with ThreadPoolExecutor(4) as threads:
        parallel = list(threads.map(lambda row: np.asarray(source[row]).tolist(), rows))
    sequential = read(source)
    assert parallel == [sequential[row] for row in rows]


def test_limit_keeps_the_first(format):
    source = open_source(format.build("a"))["train"]
    few = limit(source, 2)
    assert (len(few), list(few.ids), few.labels.tolist()) == (
        2,
        list(source.ids[:2]),
        source.labels[:2].tolist(),
    )
    assert (few.modality, few.class_names) == (source.modality, source.class_names)
    assert read(few) == read(source)[:2]
    with pytest.raises(IndexError):
        few[2]
    assert limit(source, 6) is source
    digests = [digest_samples(limit(source, n)) for n in range(1, 7)]
    assert len(set(digests)) == 6
    assert (
        digest_samples(pickle.loads(pickle.dumps(few)))
        == digest_samples(few)
        == digest_samples(limit(limit(source, 5), 2))
    )


@pytest.mark.parametrize("n", [0, -1])
def test_limit_refuses_nothing(make, n):
    source = open_source(make.file("a.txt", b"one\ntwo\n"))["train"]
    with pytest.raises(SourceError, match=f"(?s)limit.*got: *{n}"):
        limit(source, n)


def test_limit_does_not_read_the_rest(make):
    make.file("images/1.png")
    make.file("images/2.png")
    few = limit(open_source(str(make.root / "images"))["train"], 1)
    before = digest_samples(few)
    Path(make.root / "images/2.png").unlink()
    assert digest_samples(few) == before


def test_a_mended_sample_changes_the_digest(make):
    spec = make.csv("list.csv", ["path"], [["1.png"], ["2.png"]])
    make.file("1.png")
    source = open_source(spec)["train"]
    broken, limited = digest_samples(source), digest_samples(limit(open_source(spec)["train"], 1))
    make.file("2.png", b"")
    assert digest_samples(source) != broken
    assert digest_samples(limit(source, 1)) == limited
