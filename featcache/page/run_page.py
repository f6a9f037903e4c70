"""Summarise a finished run as plain values: what was done, how good it is, and what it gets wrong."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.active.curve import FEWEST, linear_probe, measure
from featcache.active.space import draw
from featcache.api.cache import Cache, Split
from featcache.api.predictions import NOVEL_FROM, Predictions, joined
from featcache.api.run import Run, parts
from featcache.cache.reader import WRITTEN
from featcache.errors import CacheError, FeatcacheError
from featcache.loading.store import FeatureStore
from featcache.outside import json_of
from featcache.page import scatter
from featcache.page.judged import Content, judged
from featcache.page.samples import Pictures, cards, least_sure, mistakes, overlay, said
from featcache.runs.run import cache_of
from featcache.runs.saved import ENVIRONMENT, METRICS, damaged, read, read_json
from featcache.training.calibration import scaled
from featcache.training.estimate import LEVEL, binomial_interval
from featcache.training.held_out import load_held_out
from featcache.training.outputs import pooled
from featcache.training.prediction import Predictor

MOST = 20_000
"""Most samples to predict for a page; of a larger split, so many are drawn."""
CURVE = 300
"""Most labels of the learning curve."""
POINTS = 300
"""Most points of a training curve."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """Choices for a page: what it shows, and where its samples are."""

    cache: Path | None = None
    """The cache; None: that of the training, where it was."""
    source: str | None = None
    """The source; None: as recorded in the cache."""
    split: str | None = None
    """The split whose samples are shown; None: the test split of the run, or that of its training."""
    device: str = "auto"
    map: bool = False
    """True to place the samples in two dimensions."""


def summarise(run: Run, wanted: Wanted) -> tuple[Content, dict[str, NDArray[Any]] | None]:
    """Return the content of the page of a run, and the columns of its map if that is wanted.

    What is not at hand any more, such as the cache or the source, is a note in the content.
    """
    notes: list[str] = []
    content: Content = {
        "kind": "run",
        "title": f"{run.objective}, {run.figures['num_labels']} labels",
        "path": str(run.path),
        "facts": facts(run),
        "command": command(run),
        "accuracy": accuracies(run),
        "judged": judged(run),
        "training": training_curves(run),
        "notes": notes,
    }
    try:
        return _with_samples(run, wanted, content)
    except FeatcacheError as error:
        if wanted.map or wanted.cache is not None:
            raise
        notes.append(f"No samples are shown: {said(error)}.")
        return content, None


def facts(run: Run) -> dict[str, str]:
    """Return what was done, in words."""
    config, figures = run.config(), run.figures
    environment = read_json(run.path / ENVIRONMENT) or {}
    versions = environment.get("packages", {})
    per_class = figures.get("labels_per_class")
    drawn = f" ({per_class} per class, drawn with seed {figures['seed']})" if per_class else ""
    found = {
        "objective": run.objective,
        "model": str(figures.get("encoder", "not recorded")),
        "cache": str(environment.get("cache", "not recorded")),
        "labels": f"{figures['num_labels']}{drawn}",
        "rows": ", ".join(f"{name} {part['rows']:,}" for name, part in config.get("splits", {}).items()),
        "seed": str(config["seed"]),
        "training": f"{figures['seconds']:.1f} s",
        "temperature": f"{figures.get('temperature', 1.0):.2f}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }
    return {name: text for name, text in found.items() if text}


def command(run: Run) -> str | None:
    """Return the command that made a run; None for a run made in Python or by a pipeline."""
    words = (read_json(run.path / ENVIRONMENT) or {}).get("command") or []
    if len(words) < 2 or Path(words[0]).name != "featcache" or words[1] != "train":
        return None
    return shlex.join(["featcache", *words[1:]])


def accuracies(run: Run) -> list[Content]:
    """Return each figure of accuracy with its 95 % interval, the most trusted first, and what it is of."""
    figures, found = run.figures, []
    for key, what in (("test", "test samples"), ("holdout", "labelled samples set aside")):
        if part := figures.get(key):
            right = round(part["accuracy"] * part["samples"])
            low, high = binomial_interval(right, part["samples"])
            ends = f"{100 * LEVEL:.0f} % interval {100 * low:.1f} to {100 * high:.1f} %"
            said = f"of {part['samples']:,} {what} are right ({ends})."
            found.append({"value": part["accuracy"], "low": low, "high": high, "said": said})
    if part := figures.get("estimate"):
        found.append(
            {"value": part["accuracy"], "low": part["low"], "high": part["high"], "said": part["sentence"]}
        )
    return found


def training_curves(run: Run) -> dict[str, list[list[float]]]:
    """Return the terms of the loss by name, as steps and values; nothing for a probe."""
    data = read(run.path / METRICS)
    try:
        lines = [json_of(line) for line in (data or b"").splitlines()]
    except ValueError as error:
        raise damaged(run.path / METRICS, error) from None
    kept = lines[:: max(1, -(-len(lines) // POINTS))]
    names = [name for name in (lines[0] if lines else {}) if name != "step"]
    return {name: [[line["step"], line[name]] for line in kept if name in line] for name in names}


def learning_curve(run: Run, split: Split, seed: int = 0) -> list[list[float]] | None:
    """Return labels and accuracy of linear probes on growing parts of the labels; None if these are few."""
    known = {sample: name for sample, name in run.labelled().items() if name is not None}
    rows = np.array([row for row, sample in enumerate(split.ids) if sample in known], np.int64)
    # Not the classes of the cache: the labels may come from a table.
    _, label = np.unique([known[split.ids[row]] for row in rows], return_inverse=True)
    if len(rows) < FEWEST or len(np.unique(label)) < 2:
        return None
    rng = np.random.default_rng(seed)
    chosen = draw(np.arange(len(rows)), CURVE, rng)
    embeddings = pooled(FeatureStore.open(split.cache, split.name, None), rows[chosen]).numpy()
    probe = linear_probe(embeddings, label[chosen])
    curve = measure(probe, label[chosen], rng, repeats=2)
    accuracy = curve.right.mean((0, 2))
    return [[round(size), float(a)] for size, a in zip(curve.sizes, accuracy, strict=True)]


def _with_samples(
    run: Run, wanted: Wanted, content: Content
) -> tuple[Content, dict[str, NDArray[Any]] | None]:
    cache = _cache_of(run, wanted)
    predictor = run.predictor(wanted.device)
    predictor.require_fitting(cache)
    split = cache[wanted.split or _split_of(run, cache)]
    split.check()
    found, rows = predictions(predictor, split)
    # Where the run has learned from all of them, it says little of them; other models may not have seen them.
    learned = not (found.predicted & ~found.learned).any()
    unseen = held_out(run, predictor, split) if learned else None
    if unseen is not None:
        found, rows = unseen
    pictures = Pictures.of(cache.provenance, wanted.source, split.name, cache.spec.encoder.preprocess)
    if pictures.problem:
        content["notes"].append(
            f"Pictures and texts of the samples are not shown: {pictures.problem}. "
            "If the source is at another place now, give that as `source`."
        )
    wrong, unsure = mistakes(found), least_sure(found)
    looks = _looks(predictor, cache, split, rows, np.union1d(wrong, unsure))
    drawn = f"{len(found):,} of {split.rows:,}" if len(found) < split.rows else f"{len(found):,}"
    content |= {
        "samples": {
            "split": split.name,
            "of": drawn,
            "judged": int((found.judged & ~found.learned).sum()),
            "held_out": unseen is not None,
        },
        "mistakes": cards(found, wrong, pictures, looks),
        "unsure": cards(found, unsure, pictures, looks),
        "unusual": None if found.novelty is None else int((found.novelty >= NOVEL_FROM).sum()),
        "curve": learning_curve(run, _training_split(run, cache)),
    }
    if not wanted.map:
        return content, None
    places, method = scatter.place(found)
    content["map"] = {"method": method, **scatter.points(found, places)}
    return content, scatter.table(found, places)


def predictions(predictor: Predictor, split: Split, seed: int = 0) -> tuple[Predictions, Rows]:
    """Predict a split, or MOST rows of it that are drawn; also return the rows."""
    rows = draw(np.arange(split.rows), MOST, np.random.default_rng(seed))
    return joined(list(parts(predictor, split, chosen=rows))), rows


def held_out(run: Run, predictor: Predictor, split: Split) -> tuple[Predictions, Rows] | None:
    """Return the predictions of labelled rows by models that did not see them; None if there are none."""
    held = load_held_out(run)
    own = split.name == predictor.learned_split and split.spec.model_dump() == predictor.learned_spec
    if held is None or not own:  # the rows are those of the training
        return None
    readable = held.known & (split.status[held.row, 0] == WRITTEN)
    rows, log_probs, truth = held.row[readable], held.log_probs[readable], held.label[readable]
    names = np.array(predictor.class_names, object)
    found = replace(
        joined(list(parts(predictor, split, chosen=rows))),
        label=names[log_probs.argmax(1)],
        truth=names[truth],
        probabilities=np.exp(scaled(log_probs, predictor.temperature)),
        learned=np.zeros(len(rows), bool),
    )
    return (found, rows) if len(rows) else None


def _cache_of(run: Run, wanted: Wanted) -> Cache:
    path = wanted.cache or cache_of(run)
    if path is None or not path.exists():
        raise CacheError("the cache of the run is gone", got=path)
    return Cache.open(path)


def _split_of(run: Run, cache: Cache) -> str:
    """Return the test split if it is there and the run was tested on it, or else that of the training."""
    data: Mapping[str, Any] = run.config()["options"].get("data", {})
    test = str(data.get("test", "test"))
    return test if "test" in run.figures and test in cache.splits else str(data.get("train", "train"))


def _training_split(run: Run, cache: Cache) -> Split:
    return cache[str(run.config()["options"].get("data", {}).get("train", "train"))]


def _looks(predictor: Predictor, cache: Cache, split: Split, rows: Rows, positions: Rows) -> dict[int, str]:
    """Return overlays of where the projector looked, by position; nothing without weights over a grid."""
    layers = cache.shapes.layers
    asked = predictor.learner.origin.features.layer
    shape = next((layer for layer in layers if layer.layer == asked), layers[0])
    if shape.grid is None or cache.spec.encoder.modality != "image" or not len(positions):
        return {}
    weights = predictor.learner.attention(predictor.open_store(cache, split.name), rows[positions])
    if weights is None:
        return {}
    field = weights.float().numpy()
    return {
        place: overlay(own, shape.grid, shape.prefix)
        for place, own in zip(positions.tolist(), field, strict=True)
    }
