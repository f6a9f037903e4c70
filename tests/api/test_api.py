"""The library: caches, runs and predictions in a notebook, by their public names."""

from __future__ import annotations

import pickle
import shutil
import threading

import numpy as np
import pytest
import torch

import featcache as fc
from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, CacheMismatch, ConfigError, TrainError
from featcache.training.metrics import evaluate

OPTIONS = {"projector.heads": 2, "optim.steps": 4, "optim": {"batch_size": 4}}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def path(make_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    return make_cache(folder / "c.zarr", weak=2, strong=1, failed={"test": [3]}, mask=True)


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return fc.train(path, "supervised", labels_per_class=2, out=out, options=OPTIONS, progress=False)


def test_a_cache_says_what_it_is(path):
    cache = fc.Cache.open(str(path))
    assert cache.splits == tuple(cache) == ("test", "train")
    assert "train" in cache
    assert "val" not in cache
    for text in (repr(cache), cache._repr_html_()):
        assert all(fact in text for fact in ("made-up", "weak0", "5 x 8 float32", "30 rows, 30 labelled"))
    assert cache.classes == ("cat", "dog", "owl")
    with pytest.raises(CacheError, match=r"val[\s\S]*test, train"):
        cache["val"]


def test_html_is_escaped(make_cache, tmp_path):
    cache = fc.Cache.open(make_cache(tmp_path / "<b>.zarr"))
    assert "<b>" not in cache._repr_html_()
    assert "&lt;b&gt;" in cache._repr_html_()


def test_a_split_says_what_it_is(path):
    split = fc.Cache.open(path)["train"]
    assert (len(split), split.name, split.class_names) == (30, "train", ("cat", "dog", "owl"))
    assert "30 labelled" in repr(split)
    again = pickle.loads(pickle.dumps(split))
    assert again.ids == split.ids
    assert np.array_equal(again.embeddings(), split.embeddings())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_embeddings_are_the_pooled_values(make_cache, tmp_path, dtype):
    path = make_cache(tmp_path / "c.zarr", dtype=dtype, weak=1)
    exact = fc.Cache.open(make_cache(tmp_path / "exact.zarr", weak=1))["train"]
    found = fc.Cache.open(path)["train"].embeddings("weak0")
    assert found.dtype == np.float32
    assert found == pytest.approx(exact.embeddings("weak0"), rel=0.01, abs=0.01)
    with pytest.raises(ConfigError, match=r"weak1[\s\S]*weak0"):
        exact.embeddings("weak1")


@pytest.mark.parametrize("shuffle", [None, 0, 7])
def test_batches_visit_every_readable_row_once(path, shuffle):
    split = fc.Cache.open(path)["test"]
    batches = list(split.batches(4, shuffle=shuffle))
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == [row for row in range(18) if row != 3]
    assert (shuffle is None) == (rows.tolist() == sorted(rows.tolist()))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1]
    assert len(list(split.batches(4, shuffle=shuffle, drop_last=True))) == 4
    pooled = CacheReader.open(path).split("test").array("pooled")
    for batch in batches:
        assert batch.labels.tolist() == split.labels[batch.rows].tolist()
        assert np.array_equal(batch["eval"].pooled.numpy(), pooled.gather(batch.rows, 0))


def test_batches_are_kept(path):
    """Unlike those of a training, whose buffers are reused."""
    split = fc.Cache.open(path)["train"]
    kept = list(split.batches(5, views=["weak", "strong"], shuffle=1))
    places = {part.tokens.data_ptr() for batch in kept for part in batch.features}
    assert len(places) == 2 * len(kept)
    again = list(split.batches(5, views=["weak", "strong"], shuffle=1))
    for a, b in zip(kept, again, strict=True):
        assert all(torch.equal(x.tokens, y.tokens) for x, y in zip(a.features, b.features, strict=True))


def test_views_have_names(path):
    split = fc.Cache.open(path)["train"]
    tokens = split.array("pooled")
    for batch in split.batches(7, views=["weak1", "eval"]):
        assert np.array_equal(batch["weak1"].pooled.numpy(), tokens.gather(batch.rows, 2))
    two = next(iter(split.batches(7, views=["weak", "weak"])))
    assert not torch.equal(two.features[0].pooled, two.features[1].pooled)
    with pytest.raises(TrainError, match=r"medium[\s\S]*eval, weak0"):
        list(split.batches(7, views=["medium"]))


def test_a_batch_needs_a_row_and_a_view(path):
    split = fc.Cache.open(path)["train"]
    for arguments in ({"size": 0}, {"size": 2, "views": []}):
        with pytest.raises(ConfigError, match="size"):
            list(split.batches(**arguments))


def test_stopping_early_ends_the_thread(path):
    batches = fc.Cache.open(path)["train"].batches(2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "featcache-prefetch"]


def test_batches_of_an_unfinished_split_are_refused(make_cache, tmp_path):
    cache = fc.Cache.open(make_cache(tmp_path / "c.zarr", unwritten=1))
    with pytest.raises(CacheError, match="not complete"):
        list(cache["test"].batches(2))
    assert "not complete" in repr(cache)


def test_a_run_says_what_it_is(run):
    assert run.objective == "supervised"
    assert run.accuracy == run.figures["test"]["accuracy"]
    for text in (repr(run), run._repr_html_()):
        assert "supervised" in text
        assert f"{100 * run.accuracy:.2f} %" in text
    assert fc.Run.open(str(run.path)).figures == run.figures
    with pytest.raises(TrainError, match="no run"):
        fc.Run.open(run.path / "absent")


def test_predictions_are_those_of_the_test(run, path):
    said = run.predict(fc.Cache.open(path)["test"])
    assert len(said) == 18
    assert (said.label[3], said.truth[3]) == (None, "cat")
    assert np.isnan(said.probabilities[3]).all()
    assert np.isnan(said.confidence[3])
    assert np.isnan(said.z[3]).all()
    rows = [row for row in range(18) if row != 3]
    assert said.probabilities[rows].sum(1) == pytest.approx(np.ones(17))
    assert said.accuracy == pytest.approx(run.accuracy)
    labels = np.array([said.classes.index(name) for name in said.truth[rows]])
    figures = evaluate(np.log(said.probabilities[rows]), labels, said.classes)
    assert figures["nll"] == pytest.approx(run.figures["test"]["nll_scaled"])
    assert said.z.shape == (18, 8)
    assert "18 samples" in repr(said)


def test_a_whole_cache_is_predicted_split_by_split(run, path):
    both = run.predict(path)
    assert both.split.tolist() == ["test"] * 18 + ["train"] * 30
    alone = run.predict(fc.Cache.open(path)["train"])
    assert np.array_equal(both.probabilities[18:], alone.probabilities)
    assert both.id[18:].tolist() == fc.Cache.open(path)["train"].ids


def test_another_view_is_predicted_by_its_name(run, path):
    split = fc.Cache.open(path)["test"]
    plain, weak = run.predict(split), run.predict(split, view="weak1")
    assert not np.array_equal(plain.z, weak.z, equal_nan=True)
    with pytest.raises(ConfigError, match="weak9"):
        run.predict(split, view="weak9")


def test_a_probe_predicts_from_the_frozen_embedding(path, tmp_path):
    run = fc.train(path, "linear", labels_per_class=2, out=tmp_path / "run", progress=False)
    said = run.predict(fc.Cache.open(path)["train"])
    assert np.array_equal(said.z, fc.Cache.open(path)["train"].embeddings())


def test_other_features_are_refused(run, make_cache, tmp_path):
    with pytest.raises(CacheMismatch, match="pooled"):
        run.predict(make_cache(tmp_path / "other.zarr", pooled=6))


def test_a_table_for_pandas(run, path):
    pytest.importorskip("pandas")
    table = run.predict(path).to_pandas()
    assert list(table.columns)[:5] == ["split", "id", "prediction", "confidence", "truth"]
    assert len(table) == 48


def test_arguments_are_named_in_errors(path, tmp_path):
    with pytest.raises(TrainError, match="labels_per_class") as caught:
        fc.train(path, "linear", out=tmp_path / "run", labels_per_class=1, num_labels=2)
    assert "--" not in str(caught.value)
    with pytest.raises(TrainError, match=r"data\.test") as caught:
        fc.train(path, "linear", num_labels=6, out=tmp_path / "run", options={"data.test": "train"})
    assert "--set" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://bucket/run"])
def test_a_bucket_is_refused_everywhere(path, run, place):
    calls = [
        lambda: fc.extract("digits", "open_clip:glyph-clip", place),
        lambda: fc.train(place, "linear", num_labels=6, out="run"),
        lambda: fc.train(path, "linear", num_labels=6, out=place),
        lambda: fc.train(path, "unsupervised", num_labels=6, out="run", options={"data.replay": place}),
        lambda: fc.predict(place, path, "p.csv"),
        lambda: fc.predict(run.path, place, "p.csv"),
        lambda: fc.predict(run.path, path, place),
        lambda: fc.run_pipeline("quickstart", out=place),
        lambda: fc.info(place),
        lambda: fc.benchmark(place),
        lambda: fc.Cache.open(place),
        lambda: fc.Run.open(place),
        lambda: fc.compare(place),
        lambda: run.predict(place),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=place):
            call()


def test_the_order_of_samples_has_a_seed_of_its_own(path, tmp_path):
    def losses(name, **seeds):
        options = {"labels_per_class": 3, "options": OPTIONS, "progress": False}
        made = fc.train(path, "supervised", out=tmp_path / name, **options, **seeds)
        labels = (made.path / "labels.json").read_text()
        return labels, (made.path / "metrics.jsonl").read_text(), made.config().get("order_seed")

    plain, same, other = losses("a"), losses("b", order_seed=0), losses("c", order_seed=5)
    assert plain[0] == same[0] == other[0], "the draw of labels does not depend on it"
    assert plain[1] == same[1] != other[1]
    assert (plain[2], same[2], other[2]) == (None, 0, 5)


@pytest.mark.parametrize("place", ["cache", "run"])
def test_caches_and_runs_are_places(path, run, tmp_path, place):
    cache = fc.Cache.open(path)
    if place == "cache":
        assert fc.info(cache)["path"] == str(path)
        assert fc.Cache.open(cache).fingerprint == cache.fingerprint
    assert fc.Run.open(run).path == run.path
    assert fc.predict(run, cache, tmp_path / "p.csv")["test"].rows == 18
    assert len(fc.compare([run]).rows) == 1


def test_a_cache_that_was_replaced_is_not_read_as_the_old_one(make_cache, tmp_path):
    place = make_cache(tmp_path / "c.zarr")
    cache = fc.Cache.open(place)
    split = cache["train"]
    shutil.rmtree(place)
    make_cache(place, dtype="float16", splits={"train": [0, 1] * 4, "test": [0, 1]})
    with pytest.raises(CacheError, match="replaced"):
        cache["train"]
    with pytest.raises(CacheError, match="replaced"):
        list(split.batches(2))
    with pytest.raises(CacheError, match="replaced"):
        fc.train(cache, "linear", labels_per_class=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shuffle", [True, False, "a", 1.5, -1])
def test_shuffle_is_a_seed(path, shuffle):
    with pytest.raises(ConfigError, match="shuffle"):
        fc.Cache.open(path)["train"].batches(2, shuffle=shuffle)


def test_arguments_of_batches_are_checked_at_once(path):
    split = fc.Cache.open(path)["train"]
    for arguments in ({"size": 2.5}, {"size": 2, "views": "w"}, {"size": 2, "views": []}):
        with pytest.raises(fc.FeatcacheError):
            split.batches(**arguments)
    (batch,) = split.batches(30, "weak")
    assert batch["weak"] is batch.features[0]
    with pytest.raises(KeyError, match="weak"):
        batch["eval"]


def test_failed_rows_are_counted(path):
    assert "1 failed" in repr(fc.Cache.open(path)["test"])
    assert "1 failed" in repr(fc.Cache.open(path))
    assert "failed" not in repr(fc.Cache.open(path)["train"])


def test_a_split_that_failed_as_a_whole_is_predicted(run, make_cache, tmp_path):
    cache = make_cache(tmp_path / "c.zarr", failed={"test": range(18)}, mask=True)
    said = run.predict(cache)
    assert np.isnan(said.z[:18]).all()
    assert said.z.shape == (48, 8)
    assert said.accuracy is not None


def test_unknown_classes_are_named(run, make_cache, tmp_path):
    said = run.predict(make_cache(tmp_path / "c.zarr", classes=("cat", "dog", "emu"), mask=True))
    assert "emu" in repr(said)
    assert "emu" in said._repr_html_()


def test_numbers_of_numpy_are_numbers(path, tmp_path):
    run = fc.train(
        path, "linear", labels_per_class=np.int64(2), seed=np.int32(1), out=tmp_path / "run", progress=False
    )
    assert (run.config()["seed"], run.config()["labels_per_class"]) == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [{"seed": 1.5}, {"seed": True}, {"num_labels": "6"}, {"order_seed": -3}, {"order_seed": 2.0}],
    ids=str,
)
def test_numbers_that_are_none_are_refused_before_anything_is_written(path, tmp_path, wrong):
    arguments = {"num_labels": 6, **wrong}
    refused = TrainError if wrong == {"order_seed": -3} else ConfigError
    with pytest.raises(refused, match=next(iter(wrong))):
        fc.train(path, "supervised", out=tmp_path / "run", progress=False, **arguments)
    assert not (tmp_path / "run").exists()


def test_options_in_every_form(path, tmp_path):
    forms = [
        {"optim": {"steps": 2}, "projector": {"heads": 2}},
        {"optim.steps": 2, "projector.heads": 2},
        {"optim": {"steps": 2}, "projector.heads": 2},
        fc.TrainOptions.model_validate({"optim": {"steps": 2}, "projector": {"heads": 2}}),
    ]
    made = [
        fc.train(path, "supervised", num_labels=6, out=tmp_path / str(i), options=form, progress=False)
        for i, form in enumerate(forms)
    ]
    assert len({str(run.config()) for run in made}) == 1
    for wrong in ([1], {3: 3}, "optim.steps=2", {"optim": 3, "optim.lr": 1e-3}):
        with pytest.raises(ConfigError):
            fc.train(path, "supervised", num_labels=6, out=tmp_path / "wrong", options=wrong)
