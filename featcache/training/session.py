"""One training from request to result, in parts: open, draw, create, begin, learn, result."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from featcache.loading.replay import ReplayCache
from featcache.plugins import portable_name
from featcache.progress import MakeProgress, Progress, silent
from featcache.runs.run import RunFolder
from featcache.runs.saved import HELD_OUT, LABELS, is_sealed, writing
from featcache.training.checks import refuse_missing_cls
from featcache.training.cross_validation import cross_validate, folds_of
from featcache.training.data import DataPool, Draw, Say, TrainingData, load_once
from featcache.training.journal import RunJournal, Watch
from featcache.training.leaks import refuse_leaks
from featcache.training.learner import Learner
from featcache.training.learners import create_learner
from featcache.training.loop import train_learner
from featcache.training.novelty import Reference
from featcache.training.options import TrainOptions
from featcache.training.own_objective import keep, recorded
from featcache.training.recipe import Recipe, parse_options
from featcache.training.request import TrainRequest, checked
from featcache.training.self_report import self_report


@dataclass(frozen=True)
class Training:
    """A request with its parsed options and its opened data."""

    request: TrainRequest
    options: TrainOptions
    data: TrainingData
    replay: ReplayCache | None
    say: Say
    watch: Watch
    show: MakeProgress

    @classmethod
    def open(
        cls,
        request: TrainRequest,
        pool: DataPool,
        *,
        say: Say = lambda line: None,
        watch: Watch = lambda step, terms: None,
        show: MakeProgress = silent,
    ) -> Training:
        """Open and check everything that a request needs. Write nothing.

        `say` receives messages, `watch` every logged step, and `show` makes the progress bar.
        """
        request = checked(request)
        options = parse_options(request.objective, request.options or {})
        data = pool.data(request.cache, options.data, request.labels, request.class_text)
        refuse_missing_cls(data.cache, options)
        return cls(request, options, data, pool.replay(data, options.data), say, watch, show)

    def config(self) -> dict[str, Any]:
        """Return everything that the result depends on; two equal configurations are the same run."""
        return _config(self)

    def defaults(self) -> dict[str, Any]:
        """Return what `config` holds where a run of an earlier version lacks an option."""
        return {"options": parse_options(self.request.objective, {}).model_dump(mode="json")}

    def draw(self) -> Draw:
        """Draw the labelled rows; raises TrainError if there are too few, or if one is a test sample too."""
        request = self.request
        draw = self.data.draw(
            self.options.data,
            seed=request.seed,
            labels_per_class=request.labels_per_class,
            num_labels=request.num_labels,
            holdout=request.holdout,
        )
        refuse_leaks(draw, self.options.data)
        return draw

    def create(self, draw: Draw) -> Learner:
        """Create the learner, before its first step."""
        request = self.request
        return create_learner(Recipe(request.objective, self.options, request.seed, self.data.device), draw)

    def begin(self, learner: Learner, draw: Draw, run: RunFolder) -> None:
        """Write everything that describes the run before its first step."""
        run.begin(self.config(), self.data.cache.path)
        keep(self.request.objective, run)
        run.write(LABELS, draw.record(self.options.data))
        Reference.of(draw).save(run)
        learner.save_task(run.task)

    def learn(self, learner: Learner, draw: Draw, run: RunFolder, bar: Progress | None = None) -> None:
        """Train the learner from its current step to its last one.

        `bar` counts the steps, also those already done; without it, the training shows a bar of its own.
        """
        if not learner.steps:
            return
        if learner.steps_done:
            self.say(f"resumed at step {learner.steps_done}")
        if bar is not None:
            bar.update(learner.steps_done)
        _load(self)
        title = f"{portable_name(self.request.objective)} {run.path.name}"
        left = learner.steps - learner.steps_done
        with (
            self.show(title, left, "steps") if bar is None else nullcontext(bar) as shown,
            RunJournal(run, learner, self.watch, shown) as learner.journal,
        ):
            train_learner(
                learner, draw, self.options, order_seed=self.request.seed_of_order, replay=self.replay
            )

    def result(self, learner: Learner, draw: Draw, run: RunFolder) -> dict[str, Any]:
        """Evaluate the trained learner, with cross-validation if an estimate or the options ask for it."""
        estimated = self.options.cv != "off" and (draw.test is None or self.request.takes_all_labels)
        repeats = folds_of(draw, learner, self.options.cv, estimated=estimated)
        # One bar for all folds, since it is their sum that takes long.
        steps = learner.steps * sum(map(len, repeats))
        with self.show(f"cross-validation {run.path.name}", steps, "steps") as bar:
            held_out = cross_validate(
                draw, repeats, lambda number, part: train_fold(self, number, part, run, bar)
            )
        if held_out is not None:
            held_out.save(run.path / HELD_OUT)
        report = self_report(
            learner,
            draw,
            held_out,
            self.replay,
            holdout=draw.holdout,
            estimated=estimated,
            random=not self.data.labels.chosen,
        )
        for folder in run.path.glob("fold=*"):
            with writing(folder):
                shutil.rmtree(folder)
        return report | {
            "objective": portable_name(self.request.objective),
            "seed": self.request.seed,
            "num_labels": len(draw.split.labelled),
            "labels_per_class": self.request.labels_per_class,
            "encoder": self.data.cache.spec.encoder.name,
            "fingerprint": self.data.cache.fingerprint,
        }


def restore(learner: Learner, run: RunFolder) -> None:
    """Restore the checkpoint of a run, if it has one; raises TrainError if it is damaged."""
    if not learner.steps or not run.checkpoint.exists():
        return
    learner.resume(run.checkpoint)
    if not is_sealed(run.checkpoint):  # of an earlier version, and `begin` seals the other files
        learner.save(run.checkpoint)


def train_fold(training: Training, number: int, draw: Draw, run: RunFolder, bar: Progress) -> Learner:
    """Train one fold of cross-validation in a folder below the run, so that it can be resumed."""
    learner, folder = training.create(draw), RunFolder(run.path / f"fold={number}")
    if learner.steps:
        restore(learner, folder)
        with writing(folder.path):
            folder.path.mkdir(exist_ok=True)
        folder.begin(training.config(), training.data.cache.path)
    training.learn(learner, draw, folder, bar)
    return learner


def _config(training: Training) -> dict[str, Any]:
    request, options = training.request, training.options.model_dump(mode="json")
    # A cache is identified by its content, not by its path. What is accepted changes no result.
    options["data"]["replay"] = None
    del options["data"]["allow_leaks"]
    return {
        **recorded(request.objective),
        "seed": request.seed,
        "labels_per_class": request.labels_per_class,
        "num_labels": request.num_labels,
        "cache": training.data.cache.fingerprint,
        "splits": {
            s.name: s.spec.model_dump() for s in (training.data.train, training.data.test) if s is not None
        },
        "device": training.data.device.type,
        "options": options,
        **({"replay": training.replay.record()} if training.replay else {}),
        **({} if request.order_seed is None else {"order_seed": request.order_seed}),
        **({} if (digest := training.data.labels_digest()) is None else {"labels": digest}),
        **({} if request.class_text is None else {"class_text": True}),
        **({"holdout": request.holdout} if request.holdout else {}),
    }


def _load(training: Training) -> None:
    """Load what the steps read to the place that `data.residency` names."""
    options, device, say = training.options.data, training.data.device, training.say
    load_once(training.data.train_store, options, device, lambda where: say(f"features: {where}"))
    # Test rows are streamed, because a training reads them only a few times.
    if training.replay is not None:
        load_once(training.replay.store, options, device, lambda where: say(f"replay features: {where}"))
