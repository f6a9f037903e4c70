"""`featcache suggest`: choose the samples to label next, and say what their labels are expected to bring."""

from __future__ import annotations

import os

import numpy as np

from featcache.active import table
from featcache.active.batch import (
    REFERENCE,
    STRATEGIES,
    Choice,
    Rowset,
    Strategy,
    choose,
    draw_rows,
    margin_uncertainty,
)
from featcache.active.curve import FEWEST, MOST, Forecast, forecast, linear_probe, measure
from featcache.active.situation import Model, Situation, open_situation
from featcache.active.space import directions, draw, stands_for
from featcache.active.table import Suggestion, Suggestions
from featcache.active.texts import texts_of
from featcache.cache.reader import CacheReader
from featcache.config import did_you_mean, whole_number
from featcache.devices import resolve
from featcache.errors import ConfigError, TrainError, in_python, option
from featcache.labels.table import LabelFiles, OwnLabels, read_labels
from featcache.location import HasPath, Location

MOST_SAMPLES = 1_000_000
TAKEN = 20_000
"""Most labelled rows to keep away from. More are drawn at random to this number."""
Place = str | os.PathLike[str] | HasPath


def suggest(
    place: Place,
    n: int = 20,
    *,
    out: str | os.PathLike[str] | None = None,
    labels: LabelFiles = (),
    label_column: str | None = None,
    ignore_unmatched: bool = False,
    cache: Place | None = None,
    split: str | None = None,
    strategy: Strategy = "auto",
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
) -> Suggestions:
    """Choose `n` samples of a split to label next, and write a table of them to `out`.

    `place` is a finished run, or a cache. `labels` are tables, which are read as `train` reads them: beside
    those that the run learned from, or instead of those in the cache. `cache` says where the cache of a run
    is now. `split` is that of the training by default. The code of an own objective, which a run holds a copy
    of, is not run without `trust`.

    Strategies: `auto` covers the samples that the model is not sure of, and all samples without a model;
    `cover` always covers all samples; `random` draws. Rows that are labelled, failed or near-identical to
    these are left out. The same arguments choose the same samples.

    Raises ConfigError if `out` holds anything but an earlier table without labels, and TrainError if no
    sample is left to label. Nothing is written then.

    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from featcache.stages.import_ import import_embeddings
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mine.npz", pooled=np.eye(9, 3, dtype="float32") + 1)
    ...     cache = import_embeddings(f"{folder}/mine.npz", f"{folder}/c.zarr", model="my model")
    ...     len(suggest(cache, 3, out=f"{folder}/next.csv"))
    3
    """
    count, seed = whole_number("n", n), whole_number("seed", seed)
    if not 1 <= count <= MOST_SAMPLES or strategy not in STRATEGIES:
        got = option("strategy", strategy) if 1 <= count <= MOST_SAMPLES else option("n", count)
        hint = did_you_mean(strategy, STRATEGIES) if 1 <= count <= MOST_SAMPLES else None
        expected = f"1 to {MOST_SAMPLES:,} samples, by one of {', '.join(STRATEGIES)}"
        raise ConfigError("this batch cannot be chosen", got=got, expected=expected, hint=hint)
    target = None if out is None else Location.of(out).path
    if target is not None:
        table.refuse_foreign(target)
    moved = None if cache is None else Location.of(cache)

    def own(opened: CacheReader) -> OwnLabels | None:
        if not labels:
            return None
        return read_labels(labels, opened, label_column=label_column, ignore_unmatched=ignore_unmatched)

    known = open_situation(Location.of(place), own, moved, split, resolve(device), trust=trust)
    found = _suggest(known, count, strategy, seed)
    if target is not None:
        table.write(target, found.samples)
    return found


def _suggest(known: Situation, count: int, strategy: Strategy, seed: int) -> Suggestions:
    rng = np.random.default_rng([seed, count])
    taken = draw(np.intersect1d(known.taken, known.readable), TAKEN, rng)
    rows = draw_rows(known.readable, known.taken, rng)
    if not len(rows.candidates):
        raise TrainError(
            f"no sample of the split `{known.split.name}` is left to label",
            got=f"{known.split.rows} rows, {len(known.taken)} labelled",
        )
    seen = np.unique(np.concatenate([*rows, taken]))
    vectors = directions(known.pooled(seen))
    candidates, reference, there = (
        vectors[np.searchsorted(seen, part)] for part in (rows.candidates, rows.reference, taken)
    )
    model = known.model(seed)
    doubt = margin_uncertainty(model.log_probs(rows.reference)) if model and strategy == "auto" else None
    choice = choose(rows, (candidates, reference, there), count, strategy, rng, uncertainty=doubt)
    return Suggestions(
        _described(known, choice, model), expected_gain(known, count, rng), _notes(known, rows, choice, count)
    )


def expected_gain(known: Situation, more: int, rng: np.random.Generator) -> Forecast:
    """Forecast what `more` labels would bring, by linear probes on the labels at hand."""
    rows = draw(known.labelled, MOST, rng)
    label = known.label[rows]
    if len(rows) < FEWEST or len(np.unique(label)) < 2:
        return Forecast(len(known.labelled), more)
    curve = measure(linear_probe(known.pooled(rows), label), label, rng)
    reference = draw(known.readable, REFERENCE, rng)
    seen = np.union1d(reference, rows)
    vectors = directions(known.pooled(seen))
    weight = stands_for(vectors[np.searchsorted(seen, rows)], vectors[np.searchsorted(seen, reference)])
    return forecast(curve, len(known.labelled), more, weight, rng)


def _described(known: Situation, choice: Choice, model: Model | None) -> tuple[Suggestion, ...]:
    """Say what is known of each chosen row, in the order of the choice."""
    order = np.argsort(choice.rows)
    log_probs = np.full((len(order), 2), np.nan)
    if model and len(order):
        log_probs = np.empty((len(order), len(model.class_names)))
        log_probs[order] = model.log_probs(choice.rows[order])
    found = []
    texts = texts_of(known.cache, known.split.name, [known.split.ids[row] for row in choice.rows.tolist()])
    for row, share, probs, text in zip(
        choice.rows.tolist(), choice.share.tolist(), np.exp(log_probs), texts, strict=True
    ):
        names = [model.class_names[c] for c in np.argsort(-probs)[:2]] if model else []
        why = "drawn at random" if np.isnan(share) else f"stands for {100 * share:.1f} % of the samples"
        if choice.chosen_by == "cover uncertain":
            why = f"{' or '.join(names)}? stands for {100 * share:.1f} % of what is unsure"
        found.append(
            Suggestion(
                id=known.split.ids[row],
                split=known.split.name,
                prediction=names[0] if names else None,
                confidence=float(probs.max()) if names else None,
                second=names[1] if len(names) > 1 else None,
                why=why,
                chosen_by=choice.chosen_by,
                text=text,
            )
        )
    return tuple(found)


def _notes(known: Situation, rows: Rowset, choice: Choice, count: int) -> tuple[str, ...]:
    free = len(np.setdiff1d(known.readable, known.taken))
    notes = [in_python(f"Warning: {warning}.") for warning in known.warnings]
    if len(rows.candidates) < free:
        notes.append(f"Chosen from {len(rows.candidates):,} of {free:,} unlabelled samples, drawn at random.")
    if len(choice.rows) < count:
        why = "no other sample is left to label"
        if len(choice.rows) < len(rows.candidates):
            why = "the other samples are near-identical to these or to labelled ones"
        elif len(rows.candidates) < free:
            why = "label these first, and ask again"
        notes.append(f"Only {len(choice.rows)} of {count}: {why}.")
    return tuple(notes)
