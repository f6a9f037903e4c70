"""Rows from real caches: equal to what zarr-python reads, whatever the residency, type and step."""

import functools
import threading
import time

import numpy as np
import pytest
import torch
import zarr

from featcache.batch import Views
from featcache.cache.quantise import dequantise
from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, ConfigError
from featcache.loading import store as stores
from featcache.loading.loader import RING, Loader, Stream, read_in_order
from featcache.loading.plan import ReadPlan, choose_tokens, choose_views
from featcache.loading.store import FeatureStore, reside

CPU = torch.device("cpu")
ROWS = np.arange(30)
VIEWS = Views(labelled=("weak",), unlabelled=("eval", "strong", "strong"))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def caches(make_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    kinds = {
        "float32": {"mask": True},
        "float16": {"pooled": 6},
        "bfloat16": {"mask": True, "layers": (-1, -3)},
        "int8": {"mask": True},
    }
    return {
        dtype: make_cache(folder / dtype, dtype=dtype, weak=2, strong=2, **options)
        for dtype, options in kinds.items()
    }


@functools.cache
def stored(path, name):
    """A whole array of the training split, as zarr-python reads it; bfloat16 is stored as its bits."""
    values = torch.from_numpy(zarr.open_array(path / "train" / name, mode="r")[...])
    return values.view(torch.bfloat16) if values.dtype == torch.uint16 else values


def opened(path, residency="stream", layer=None):
    store = FeatureStore.open(CacheReader.open(path), "train", layer)
    reside(store, residency, CPU)
    return store


def loader(store, *, views=VIEWS, batch_size=4, uratio=2.0, seed=3, labelled=ROWS[::3], **options):
    first = Stream.shuffled(store, labelled, views.labelled, batch_size=batch_size, seed=seed)
    second = None
    if views.unlabelled:
        size = round(uratio * batch_size)
        second = Stream.shuffled(store, ROWS, views.unlabelled, batch_size=size, seed=seed + 1)
    return Loader(first, np.arange(30) % 3, second, **{"device": CPU, **options})


def copied(batch):
    """Copy a batch, because its buffers are reused."""
    parts = [tensor for part in (*batch.labelled, *batch.unlabelled) for tensor in part]
    tensors = [*parts, batch.label, batch.unlabelled_index]
    return [None if tensor is None else tensor.clone() for tensor in tensors]


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def check_part(part, path, rows, view, tokens="tokens"):
    expected = stored(path, tokens)[rows, view]
    if part.mask is not None:
        mask = stored(path, "token_mask")[rows, view]
        longest = int(mask.sum(1).max())
        assert torch.equal(part.mask, mask[:, :longest])
        expected = expected[:, :longest]
    assert part.tokens.dtype == expected.dtype
    assert torch.equal(part.tokens, expected)
    assert torch.equal(part.pooled, stored(path, "pooled")[rows, view])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("residency", ["stream", "ram", "device", "auto"])
def test_values_are_the_cache_s(caches, dtype, residency):
    path = caches[dtype]
    made = loader(opened(path, residency))
    for step, batch in enumerate(made.steps(0, 6)):
        rows = made.streams["labelled"].plan.batch(step)
        views = choose_views(VIEWS.labelled, made.streams["labelled"].store.view_names, 3, step)
        check_part(batch.labelled[0], path, rows, views[0])
        assert batch.label.tolist() == (rows % 3).tolist()
        index = made.streams["unlabelled"].plan.positions(step)
        views = choose_views(VIEWS.unlabelled, made.streams["labelled"].store.view_names, 4, step)
        assert batch.unlabelled_index.tolist() == index.tolist()
        for part, view in zip(batch.unlabelled, views, strict=True):
            check_part(part, path, ROWS[index], view)


def test_residency_in_several_pieces(caches, monkeypatch):
    monkeypatch.setattr(stores, "CHUNK_ROWS", 7)
    store = opened(caches["bfloat16"], "ram")
    for view in range(5):
        check_part(store.gather(ROWS, view, store.buffers(30)), caches["bfloat16"], ROWS, view)


def test_another_layer(caches):
    store = opened(caches["bfloat16"], layer=-3)
    check_part(store.gather(ROWS, 0, store.buffers(30)), caches["bfloat16"], ROWS, 0, "tokens_layer-3")


def test_a_layer_that_is_not_cached(caches):
    with pytest.raises(ConfigError, match=r"layer -2[\s\S]*-1 or -3[\s\S]*layers"):
        opened(caches["bfloat16"], layer=-2)


@pytest.mark.parametrize("residency", ["stream", "ram"])
def test_masks_are_cut_to_the_longest_text(caches, residency):
    store = opened(caches["float32"], residency)
    masks = stored(caches["float32"], "token_mask")
    lengths = masks[:, 0].sum(1)
    for longest in lengths.unique().tolist():
        rows = (lengths <= longest).nonzero()[:, 0].numpy()
        part = store.gather(rows, 0, store.buffers(len(rows)))
        assert part.tokens.shape[1] == part.mask.shape[1] == longest
        assert torch.equal(part.mask.sum(1), lengths[rows])


def test_a_resident_mask_knows_its_lengths(caches):
    masks = stored(caches["float32"], "token_mask").numpy()
    last = masks.shape[2] - np.argmax(masks[:, :, ::-1], axis=2)
    store = opened(caches["float32"], "ram")
    assert np.array_equal(store.lengths, np.where(masks.any(2), last, 0).T)
    assert opened(caches["float32"]).lengths is None
    assert opened(caches["float16"], "ram").lengths is None


@pytest.mark.parametrize("start", [1, 5, 13])
def test_resuming_is_asking_for_the_next_step(caches, start):
    whole = [copied(batch) for batch in loader(opened(caches["float32"])).steps(0, 16)]
    rest = [copied(batch) for batch in loader(opened(caches["float32"])).steps(start, 16)]
    assert len(rest) == 16 - start
    assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_a_batch_stays_as_it_is_while_others_are_read_ahead(caches):
    """The worker fills every free buffer before we look again."""
    made = loader(opened(caches["float32"]))
    read = []
    inner = made._read

    def watched(wanted, buffers):
        batch = inner(wanted, buffers)
        read.append(wanted)
        return batch

    made._read = watched
    for step, batch in enumerate(made.steps(0, 12)):
        before = copied(batch)
        while len(read) < min(12, step + RING):
            time.sleep(0.001)
        assert same(before, copied(batch))
        assert same(before, copied(inner(made._wanted(step), made._buffers())))


def test_buffers_are_reused(caches):
    places = {batch.labelled[0].pooled.data_ptr() for batch in loader(opened(caches["float32"])).steps(0, 12)}
    assert len(places) <= RING


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "featcache-prefetch"]


def test_an_error_in_the_thread_reaches_the_consumer(make_cache, tmp_path):
    path = make_cache(tmp_path / "c.zarr")
    store = opened(path)
    shard = max((path / "train" / "tokens" / "c").rglob("*"), key=lambda file: (file.is_file(), str(file)))
    shard.unlink()
    with pytest.raises(CacheError, match=rf"{shard.name}[\s\S]*no such file"):
        list(loader(store, views=Views(unlabelled=("eval",))).steps(0, 40))
    assert not workers()


@pytest.mark.parametrize("after", [1, 3])
def test_the_thread_ends_when_the_consumer_stops_early(caches, after):
    steps = loader(opened(caches["float32"])).steps(0, 10**9)
    for _ in range(after):
        next(steps)
    assert len(workers()) == 1
    steps.close()
    assert not workers()


def test_no_steps(caches):
    assert list(loader(opened(caches["float32"])).steps(7, 7)) == []
    assert not workers()


def test_sizes_of_batches(caches):
    store = opened(caches["float32"])
    made = loader(store, batch_size=8, uratio=1.5, labelled=ROWS[:3])
    assert (made.streams["labelled"].plan.batch_size, made.streams["unlabelled"].plan.batch_size) == (3, 12)
    assert loader(store, batch_size=8, uratio=100).streams["unlabelled"].plan.batch_size == 30
    assert loader(store, batch_size=1, uratio=0.1).streams["unlabelled"].plan.batch_size == 1
    alone = loader(store, views=Views(labelled=("eval",)))
    assert alone.streams.keys() == {"labelled"}
    batch = copied(next(alone.steps(0, 1)))
    assert batch[-1].shape == (0,)
    assert batch[-2].shape == (4,)


@pytest.mark.parametrize("residency", ["stream", "ram"])
def test_reading_in_order(caches, residency):
    rows = np.array([0, 2, 3, 11, 17, 29])
    parts = read_in_order(opened(caches["float16"], residency), rows, 4, CPU)
    pooled = torch.cat([part.pooled.clone() for part in parts])
    assert torch.equal(pooled, stored(caches["float16"], "pooled")[rows, 0])


def test_the_two_streams_are_shuffled_apart(caches):
    made = loader(opened(caches["float32"]), labelled=ROWS, batch_size=30, uratio=1.0)
    assert isinstance(made.streams["labelled"].plan, ReadPlan)
    assert made.streams["labelled"].plan.seed != made.streams["unlabelled"].plan.seed


def values(path, rows, view):
    """int8 tokens as zarr-python and numpy read them, each product rounded to float32."""
    std = np.array(CacheReader.open(path).shapes.layers[0].std, np.float32)
    tokens, scale = (stored(path, name)[rows, view].numpy() for name in ("tokens", "token_scale"))
    return torch.from_numpy(dequantise(tokens, scale, std))


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_int8_stays_int8_in_memory_and_is_float32_in_a_batch(caches, residency):
    path = caches["int8"]
    made = loader(opened(path, residency))
    held = made.streams["labelled"].store.columns["tokens"].resident
    assert held is None or held.dtype == torch.int8
    assert made.streams["labelled"].store.nbytes == 30 * 5 * (5 * (8 + 4) + 8 * 2 + 5)
    for step, batch in enumerate(made.steps(0, 6)):
        rows, view = (
            made.streams["labelled"].plan.batch(step),
            choose_views(("weak",), made.streams["labelled"].store.view_names, 3, step)[0],
        )
        (part,) = batch.labelled
        mask = stored(path, "token_mask")[rows, view]
        longest = int(mask.sum(1).max())
        assert part.scale is None
        assert torch.equal(part.mask, mask[:, :longest])
        assert torch.equal(part.tokens, values(path, rows, view)[:, :longest])
        assert torch.equal(part.pooled, stored(path, "pooled")[rows, view])
    read = torch.cat([part.tokens for part in read_in_order(opened(path, residency), ROWS, 30, CPU)])
    assert torch.equal(read, values(path, ROWS, 0)[:, : read.shape[1]])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_subset_of_the_tokens_is_that_of_whole_batches(caches, dtype):
    whole, some = (loader(opened(caches[dtype]), token_subset=share) for share in (1.0, 0.5))
    seen = set()
    for step, (a, b) in enumerate(zip(whole.steps(0, 12), some.steps(0, 12), strict=True)):
        for one, other in zip((*a.labelled, *a.unlabelled), (*b.labelled, *b.unlabelled), strict=True):
            seed = 3 if one is a.labelled[0] else 4
            kept = choose_tokens(one.tokens.shape[1], 1, 0.5, seed, step)
            if kept is None:
                kept = np.arange(one.tokens.shape[1])
            seen.add(tuple(kept))
            assert torch.equal(other.tokens, one.tokens[:, kept])
            assert one.mask is None or torch.equal(other.mask, one.mask[:, kept])
            assert torch.equal(other.pooled, one.pooled)
    assert len(seen) > 3


def test_a_subset_is_resumed(caches):
    made = loader(opened(caches["int8"]), token_subset=0.5)
    whole, rest = ([copied(batch) for batch in made.steps(start, 9)] for start in (0, 5))
    assert all(same(a, b) for a, b in zip(rest, whole[5:], strict=True))


@pytest.mark.parametrize(("prefix", "grid", "kept"), [(2, (2, 2), 2), (0, (2, 2), 0), (0, None, 1)])
def test_which_tokens_no_subset_leaves_out(make_cache, tmp_path, prefix, grid, kept):
    cache = CacheReader.open(make_cache(tmp_path / "c.zarr"))
    array = cache.shapes.layers[0].model_copy(update={"prefix": prefix, "grid": grid})
    cache.shapes = cache.shapes.model_copy(update={"layers": (array,)})
    assert FeatureStore.open(cache, "train").prefix == kept


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@NO_CUDA
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_a_device_gets_what_the_host_would(caches, dtype, residency):
    """No buffer is refilled before its copy is done, though the consumer waits for nothing."""
    device = torch.device("cuda")
    store = FeatureStore.open(CacheReader.open(caches[dtype]), "train")
    reside(store, residency, device)
    there = loader(store, device=device)
    here = loader(opened(caches[dtype]))
    work = torch.randn(4096, 4096, device=device)
    for _ in range(50):  # the copies queue up behind it
        work = (work @ work).clamp(-1, 1)
    got = [copied(batch) for batch in there.steps(0, 12)]
    for found, batch in zip(got, here.steps(0, 12), strict=True):
        assert same([None if tensor is None else tensor.cpu() for tensor in found], copied(batch))


@pytest.mark.gpu
@NO_CUDA
@pytest.mark.parametrize("residency", ["stream", "device"])
def test_the_consumer_never_waits_for_the_device(caches, residency):
    device = torch.device("cuda")
    store = FeatureStore.open(CacheReader.open(caches["float32"]), "train")
    reside(store, residency, device)
    made = loader(store, labelled=ROWS, uratio=1.0, seed=0, device=device)
    batch = made._read(made._wanted(0), made._buffers())
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved, copied = made._to_device(batch, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copied is not None
    assert moved.label.device.type == "cuda"
