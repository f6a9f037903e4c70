"""`featcache train`: train one objective on a cache with a few labels, and test it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from featcache.api.run import Run
from featcache.cache.reader import CacheReader
from featcache.devices import resolve
from featcache.errors import in_python
from featcache.labels.table import LabelFiles, OwnLabels, read_labels
from featcache.location import Location
from featcache.progress import MakeProgress, bar, human_time, silent
from featcache.runs.metrics import write_figures
from featcache.runs.run import RunFolder
from featcache.runs.trackers import Tracking, require_tracker, tracking
from featcache.shown import harmless
from featcache.stages.label import class_text_of, unused_names
from featcache.training.config_file import options_for
from featcache.training.data import DataPool, Draw, Say
from featcache.training.journal import Watch
from featcache.training.learner import Learner
from featcache.training.recipe import parse_options
from featcache.training.request import TrainRequest
from featcache.training.session import Training, restore
from featcache.training.summary import figures, settings


def train(
    cache: str | os.PathLike[str] | CacheReader,
    objective: str = "twinturbo",
    *,
    out: str | os.PathLike[str],
    labels: LabelFiles | None = None,
    label_column: str | None = None,
    ignore_unmatched: bool = False,
    class_text: bool = False,
    holdout: float = 0.0,
    labels_per_class: int | None = None,
    num_labels: int | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    log: str | None = None,
    progress: bool = True,
) -> Run:
    """Train one objective on the labelled samples of a cache, and return the run at `out`.

    `labels` are tables (CSV, TSV, JSONL, Parquet) of samples and class names, as `label` reads them, used
    instead of the labels of the cache. `class_text` embeds their names with the model of the cache. All
    labels are used, unless `labels_per_class` or `num_labels` draws some of them.

    A labelled split `test` tests the run. Without one, or without a draw, cross-validation estimates its
    accuracy. `holdout` is a share of the labels to set aside, which test it too.

    `seed` seeds the draw of labels and the training, and `order_seed` the order of samples (None: the same as
    `seed`). `options` are the fields of `TrainOptions`, nested or dotted: `{"optim.steps": 500}`. They may
    also be the content of a run's config.json. With `resume`, an unfinished run continues from its
    checkpoint, and a finished one is returned. The tracker `log` (mlflow, trackio or wandb) receives metrics
    too. `progress` shows a bar on a terminal and in notebooks.

    Labels for tests are used once, at the end. Raises a FeatcacheError before anything is written, if the
    cache is not complete or there are too few labels. It also does so if an option is not valid, or if `out`
    holds something else.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=200, tokens="cls")
    ...     run = train(cache, "linear", labels_per_class=2, out=f"{folder}/run")
    ...     run.objective, run.accuracy > 0.5
    ('linear', True)
    """
    chosen = options_for(objective, options)
    request = TrainRequest(
        cache, objective, seed, labels_per_class, num_labels, chosen, order_seed, holdout=holdout
    )
    request, warnings = with_labels(request, labels, label_column, ignore_unmatched, class_text=class_text)
    for warning in warnings if progress else ():
        print(f"warning: {harmless(in_python(warning))}", file=sys.stderr)
    run_training(request, out, device=device, resume=resume, log=log, show=bar if progress else silent)
    return Run.open(out, trust=True)


def with_labels(
    request: TrainRequest,
    files: LabelFiles | None,
    label_column: str | None = None,
    ignore_unmatched: bool = False,
    *,
    class_text: bool = False,
) -> tuple[TrainRequest, tuple[str, ...]]:
    """Add a user's own labels to a request, and embeddings of the class names; also return warnings."""
    cache = request.cache
    opened = cache if isinstance(cache, CacheReader) else CacheReader.open(Location.of(cache).path)
    own = OwnLabels(opened.labels, ())
    if files:
        own = read_labels(files, opened, label_column=label_column, ignore_unmatched=ignore_unmatched)
    text = class_text_of(opened, own.table)[0] if class_text else None
    warnings = [*own.warnings, *([] if class_text else unused_names(opened, own.table))]
    split = parse_options(request.objective, request.options or {}).data.train
    if files and split in own.table.by_split:
        lost = [f"`{name}`" for name, count in own.table.counts(split).items() if not count]
        warnings += [f"no sample of `{split}` is labelled {' or '.join(lost)}"] if lost else []
    labels = own.table if files else None
    return replace(request, cache=opened, labels=labels, class_text=text), tuple(warnings)


def run_training(
    request: TrainRequest,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    resume: bool = False,
    log: str | None = None,
    say: Say = lambda line: None,
    watch: Watch = lambda step, terms: None,
    show: MakeProgress = silent,
    pool: DataPool | None = None,
) -> dict[str, Any]:
    """Train as `train` does, for a request; return the content of result.json.

    `say` receives messages, `watch` and the tracker `log` every logged step, and `show` makes the progress
    bar. A `pool` keeps the opened data for the next training; its device is used instead of `device`.
    """
    require_tracker(log)
    opened = pool or DataPool(resolve(device))
    training, path = Training.open(request, opened, say=say, watch=watch, show=show), Location.of(out).path
    run = RunFolder.at(path, training.config(), resume=resume, defaults=training.defaults())
    if (done := run.result()) is not None:
        say(f"{path} is finished already")
        return done
    draw = training.draw()
    start = time.perf_counter()
    learner = training.create(draw)
    with run.lock():
        # Another process may have begun or finished the same run in the meantime.
        RunFolder.at(path, training.config(), resume=True, defaults=training.defaults())
        if (done := run.result()) is not None:
            return done
        asked = settings(training.config())
        with tracking(log, path, asked) as tracker:
            result = _train(training, learner, draw, run, start, tracker)
        write_figures(run, learner.steps_done, asked, figures(result))
        run.finish(result)
        return result


def _train(
    training: Training, learner: Learner, draw: Draw, run: RunFolder, start: float, tracker: Tracking
) -> dict[str, Any]:
    """Train a learner to its result, from the checkpoint of the run if it has one."""

    def watch(step: int, terms: Mapping[str, float]) -> None:
        training.watch(step, terms)
        tracker(step, terms)

    restore(learner, run)
    training.begin(learner, draw, run)
    # Only this training: the folds of cross-validation would be mixed with it.
    replace(training, watch=watch).learn(learner, draw, run)
    seconds = time.perf_counter() - start
    result = training.result(learner, draw, run) | {"seconds": round(seconds, 3)}
    result["seconds_in_all"] = round(time.perf_counter() - start, 3)
    tracker.figures(figures(result))
    return result


def describe(result: Mapping[str, Any]) -> str:
    """Describe the result of a run in a few lines: its test, its held-out samples and its estimate."""
    head = f"{result['objective']}, {result['num_labels']} labels, seed {result['seed']}"
    seconds = f"{result['seconds']:.1f} s"
    if (in_all := result.get("seconds_in_all", 0.0)) > 1.2 * result["seconds"] + 1:
        seconds = f"{human_time(in_all)}, of which {seconds} for the final training"
    lines = []
    for name, what in (("test", "test samples"), ("holdout", "samples set aside")):
        if (figures := result.get(name)) is not None:
            interval = [_share(figures[end]) for end in ("low", "high") if end in figures]
            within = f" (95 % interval {' to '.join(interval)})" if interval else ""
            lines.append(
                f"accuracy {100 * figures['accuracy']:.2f} %{within}, NLL {figures['nll']:.3f}, "
                f"ECE {figures['ece']:.3f} on {figures['samples']} {what}"
                + (", not drawn at random: no more than a hint" if figures.get("chosen") else "")
            )
    if (estimate := result.get("estimate")) is not None:
        lines.append(estimate["sentence"])
    if len(lines) == 1:
        return f"{head}: {lines[0]}" + (f", {seconds}" if "estimate" not in result else f" ({seconds})")
    return "\n  ".join([f"{head}, {seconds}", *lines])


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
