"""How good is the forecast of `featcache suggest`? `python -m studies.forecast measure|table`.

Labels are drawn at random, or chosen by `suggest` in batches of 20, from the training rows of each cache. The
forecast for 20 more labels is compared with what they brought on the test rows: 20 random ones (the mean of
three draws), and the 20 that `suggest` chooses. One line of JSON is one forecast.

    python -m studies.forecast measure CACHE ... --out forecast.jsonl
    python -m studies.forecast table forecast.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.active.curve import forecast, linear_probe, measure
from featcache.active.space import Rows, directions, stands_for
from studies._command import main
from studies.suggest import fit, parts
from studies.suggest_strategies import STRATEGIES, View

LABELS = (20, 40, 80, 160)
MORE = 20


def follow(path: Path, design: str, repeat: int) -> list[dict[str, Any]]:
    """Label batch after batch, and make a forecast at each number of LABELS."""
    (pooled, label), test = parts(path, "test", repeat)
    z, classes = directions(pooled), int(max(label.max(), test[1].max())) + 1
    rng = np.random.default_rng([repeat, 8])
    labelled: Rows = np.zeros(0, np.int64)
    predict, found = None, []

    def batch(name: str) -> Rows:
        chosen = STRATEGIES[name](View(pooled, z, labelled, predict, rng), MORE)
        return np.concatenate([labelled, chosen])

    def accuracy(rows: Rows) -> float:
        return float((fit(pooled, label, rows, classes)(test[0]).argmax(1) == test[1]).mean())

    while len(labelled) < max(LABELS):
        labelled = batch(design)
        predict = fit(pooled, label, labelled, classes)
        if len(labelled) in LABELS:
            here = np.sort(labelled)
            curve = measure(linear_probe(pooled[here], label[here]), label[here], rng)
            said = forecast(curve, len(here), MORE, stands_for(z[here], z), rng)
            now = accuracy(labelled)
            random = float(np.mean([accuracy(batch("random")) for _ in range(3)])) - now
            chosen = accuracy(batch("auto")) - now
            found.append(asdict(said) | {"accuracy_now": now, "random": random, "chosen": chosen})
    return found


def run(asked: argparse.Namespace) -> None:
    """Append the forecasts of each cache, design and repetition that the file lacks."""
    lines = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    done = {(line["cache"], line["design"], line["repeat"]) for line in lines}
    for repeat in range(asked.repeats):
        for path in asked.caches:
            for design in ("random", "auto"):
                if (path.stem, design, repeat) in done:
                    continue
                for line in follow(path, design, repeat):
                    with asked.out.open("a") as file:
                        about = {"cache": path.stem, "design": design, "repeat": repeat}
                        file.write(json.dumps(about | line) + "\n")


def table(asked: argparse.Namespace) -> None:
    """Print, by data, design and number of labels, what was said and what came (points of accuracy)."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in map(json.loads, asked.file.read_text().splitlines()):
        found[line["cache"], line["design"], line["labels"]].append(line)
    print(
        "| data | labels so far | n | said | interval | 20 random | inside | 20 suggested | inside | runs |"
    )
    print("| --- " * 10 + "|")
    for (cache, design, labels), lines in sorted(found.items()):
        low, high = (np.array([line["gain_interval"][end] for line in lines]) for end in (0, 1))
        cells = [cache, "chosen" if design == "auto" else design, str(labels)]
        cells += [f"{100 * np.mean([line['gain'] for line in lines]):+.1f}"]
        cells += [f"{100 * low.mean():+.1f} to {100 * high.mean():+.1f}"]
        for name in ("random", "chosen"):
            came = np.array([line[name] for line in lines])
            inside = int(((low <= came) & (came <= high)).sum())
            cells += [f"{100 * came.mean():+.1f}", f"{inside}"]
        print("| " + " | ".join([*cells, str(len(lines))]) + " |")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `measure` takes."""
    parser.add_argument("--repeats", type=int, default=10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(__doc__, arguments, run, table)
