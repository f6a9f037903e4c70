"""`featcache train`: train one objective on a cache with a few labels, and test it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from featcache.api.run import Run
from featcache.cache.reader import CacheReader
from featcache.devices import resolve
from featcache.location import Location
from featcache.progress import MakeProgress, bar, silent
from featcache.runs.run import RESULT, RunFolder
from featcache.training.config_file import options_for
from featcache.training.data import DataPool, Say
from featcache.training.journal import Watch
from featcache.training.session import Training, TrainRequest


def train(
    cache: str | os.PathLike[str] | CacheReader,
    objective: str,
    *,
    out: str | os.PathLike[str],
    labels_per_class: int | None = None,
    num_labels: int | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train one objective on a cache with a few labels, test it, and return the run at `out`.

    Give exactly one of `labels_per_class` and `num_labels`. `seed` seeds the draw of labels and the training,
    and `order_seed` the order of samples (None: the same as `seed`). `options` are the fields of
    `TrainOptions`, nested or dotted: `{"optim.steps": 500}`. They may also be the content of a run's
    config.json. With `resume`, an unfinished run continues from its checkpoint, and a finished one is
    returned. `progress` shows a bar on a terminal and in notebooks.

    Test labels are used once, at the end. Raises a FeatcacheError before anything is written, if the cache
    is not complete or there are too few labels. It also does so if an option is not valid, or if `out` holds
    something else.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=200, tokens="cls")
    ...     run = train(cache, "linear", labels_per_class=2, out=f"{folder}/run")
    ...     run.objective, run.accuracy > 0.5
    ('linear', True)
    """
    request = TrainRequest(
        cache, objective, seed, labels_per_class, num_labels, options_for(objective, options), order_seed
    )
    run_training(request, out, device=device, resume=resume, show=bar if progress else silent)
    return Run.open(out)


def run_training(
    request: TrainRequest,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    resume: bool = False,
    say: Say = lambda line: None,
    watch: Watch = lambda step, terms: None,
    show: MakeProgress = silent,
    pool: DataPool | None = None,
) -> dict[str, Any]:
    """Train as `train` does, for a request; return the content of result.json.

    `say` receives messages, `watch` every logged step, and `show` makes the progress bar. A `pool` keeps
    the opened data for the next training; its device is used instead of `device`.
    """
    opened = pool or DataPool(resolve(device))
    training, path = Training.open(request, opened, say=say, watch=watch, show=show), Location.of(out).path
    run = RunFolder.at(path, training.config(), resume=resume)
    if (done := run.result()) is not None:
        say(f"{path} is finished already")
        return done
    draw = training.draw()
    start = time.perf_counter()
    learner = training.create(draw)
    training.begin(learner, draw, run)
    training.learn(learner, draw, run)
    seconds = time.perf_counter() - start
    result = training.result(learner, draw, run) | {"seconds": round(seconds, 3)}
    run.write(RESULT, result)
    return result


def describe(result: Mapping[str, Any]) -> str:
    """Describe the result of a run in one line."""
    test = result["test"]
    return (
        f"{result['objective']}, {result['num_labels']} labels, seed {result['seed']}: "
        f"accuracy {100 * test['accuracy']:.2f} %, NLL {test['nll']:.3f}, ECE {test['ece']:.3f} "
        f"on {test['samples']} test samples, {result['seconds']:.1f} s"
    )
