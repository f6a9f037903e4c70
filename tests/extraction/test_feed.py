"""Batches of views: the same pixels however batched, and errors in words, whichever process they are in."""

from __future__ import annotations

import resource
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from PIL import Image

from featcache import encoders
from featcache.errors import EncoderError, FeatcacheError, SourceError
from featcache.extraction.feed import Loaded, ViewDataset, auto_workers, feed
from featcache.extraction.view_transform import ViewTransform
from featcache.sources import open_source
from featcache.specs import ViewSpec

VIEWS = ViewSpec(weak=1, strong=2)
pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
CPU = torch.device("cpu")


def _dataset(photos: Path, model: str, batches: list[range], views: ViewSpec = VIEWS) -> ViewDataset:
    encoder = encoders.load(model)
    transform = ViewTransform(encoder.transform, "image", views)
    return ViewDataset(open_source(str(photos))["train"], transform, views.names(), batches)


def _whiten(path: Path) -> None:
    Image.new("RGB", (20, 20), "white").save(path)


def test_a_view_has_the_same_pixels_in_any_batch(photos: Path, frozen: Model) -> None:
    seen: list[dict[tuple[int, int], torch.Tensor]] = []
    for step in (1, 3, 10):
        batches = [range(start, min(start + step, 10)) for start in range(0, 10, step)]
        views = {}
        for loaded in feed(_dataset(photos, frozen("tiny"), batches), 0, CPU):
            count = len(loaded.rows)
            for at, pixels in enumerate(loaded.inputs["input"]):
                views[loaded.rows[at % count], at // count] = pixels
        seen.append(views)
    assert len(seen[0]) == 40
    for views in seen[1:]:
        assert views.keys() == seen[0].keys()
        assert all(torch.equal(views[key], seen[0][key]) for key in views)
    assert all(
        not torch.equal(seen[0][row, one], seen[0][row, two])
        for row in range(10)
        for one in range(4)
        for two in range(one)
    )


def test_a_sample_that_cannot_be_read_is_left_out_with_its_reason(photos: Path, frozen: Model) -> None:
    (photos / "train" / "cat" / "01.png").write_bytes(b"")
    whole, (loaded,) = (
        list(feed(_dataset(photos, frozen("tiny"), batches), 0, CPU)) for batches in ([range(2)], [range(3)])
    )
    assert loaded.failed == {1: "the file is empty (0 bytes)"}
    assert loaded.inputs["input"].shape == (4 * 2, 3, 16, 16)
    assert torch.equal(loaded.inputs["input"][::2], whole[0].inputs["input"])


def test_a_batch_may_have_no_readable_sample(photos: Path, frozen: Model) -> None:
    (photos / "train" / "cat" / "00.png").write_bytes(b"not an image")
    (loaded,) = feed(_dataset(photos, frozen("tiny"), [range(1)]), 0, CPU)
    assert loaded.inputs == {}
    assert loaded.failed == {0: "not an image (12 bytes of no known format)"}


def test_a_sample_that_the_transform_refuses_is_left_out_by_a_reason_without_addresses(
    photos: Path, frozen: Model
) -> None:
    _whiten(photos / "train" / "cat" / "01.png")
    (loaded,) = feed(_dataset(photos, frozen("picky"), [range(3)], ViewSpec()), 0, CPU)
    assert loaded.failed == {1: "the model's transform fails (ValueError: too white: <object object at ...>)"}
    assert loaded.inputs["input"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_shapes_that_cannot_be_a_batch_are_named_wherever_they_are_made(
    photos: Path, frozen: Model, num_workers: int
) -> None:
    with pytest.raises(EncoderError) as error:
        list(feed(_dataset(photos, frozen("ragged"), [range(4)], ViewSpec()), num_workers, CPU))
    lines = str(error.value).splitlines()
    assert lines[0] == "the model's transform gives tensors of different shapes"
    assert "('input', 3, 18, 40)" in lines[1]
    assert "Traceback" not in str(error.value)


def test_the_death_of_a_worker_is_explained(photos: Path, frozen: Model) -> None:
    _whiten(photos / "train" / "dog" / "05.png")
    batches = [range(row, row + 1) for row in range(10)]
    with pytest.raises(SourceError, match="a reading process died") as error:
        list(feed(_dataset(photos, frozen("deadly"), batches, ViewSpec()), 1, CPU))
    assert "num_workers" in str(error.value)
    assert len(str(error.value).splitlines()) == 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_limit_of_the_machine_costs_no_row(photos: Path, frozen: Model, num_workers: int) -> None:
    _whiten(photos / "train" / "cat" / "01.png")
    with pytest.raises(SourceError, match="memory") as error:
        list(feed(_dataset(photos, frozen("hungry"), [range(3)], ViewSpec()), num_workers, CPU))
    assert "cat/01.png" in str(error.value.got)


def test_neither_does_a_file_that_may_not_be_opened(photos: Path, frozen: Model) -> None:
    dataset = _dataset(photos, frozen("tiny"), [range(3)], ViewSpec())
    assert isinstance(dataset[0], Loaded)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        found = dataset[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert isinstance(found, SourceError)
    assert "open files" in str(found)


def test_without_shared_memory_batches_go_through_a_pipe(photos: Path, frozen: Model) -> None:
    """As on a full /dev/shm: the workers may not make a file of the size of a batch."""
    dataset = _dataset(photos, frozen("tiny"), [range(5), range(5, 10)])
    expected = list(feed(dataset, 0, CPU))
    list(feed(dataset, 1, CPU))  # the process that workers are forks of runs from now on
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    before = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        found = list(feed(dataset, 2, CPU))
    finally:
        resource.prlimit(server, resource.RLIMIT_FSIZE, before)
    for one, other in zip(found, expected, strict=True):
        assert one.rows == other.rows
        assert torch.equal(one.inputs["input"], other.inputs["input"])
        assert not one.inputs["input"].is_shared()


def test_no_worker_is_started_for_nothing(photos: Path, frozen: Model) -> None:
    assert list(feed(_dataset(photos, frozen("deadly"), []), 2, CPU)) == []
    assert auto_workers(1_999) == 0
    assert 1 <= auto_workers(1_000_000) <= 8


def test_an_error_is_handed_over_as_a_value(photos: Path, frozen: Model) -> None:
    dataset = _dataset(photos, frozen("ragged"), [range(1), range(4)], ViewSpec())
    assert isinstance(dataset[0], Loaded)
    assert isinstance(dataset[1], FeatcacheError)
