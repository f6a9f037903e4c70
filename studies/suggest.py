"""Labels that `featcache suggest` chooses, against labels drawn at random: `python -m studies.suggest`.

    python -m studies.suggest measure CACHE ... --part train --out choice.jsonl --strategies auto random ...
    python -m studies.suggest measure CACHE ... --part test --out test.jsonl --strategies auto random
    python -m studies.suggest table test.jsonl

`--part train` splits the training rows into 70 % to choose from and 30 % to test on: settings are chosen
there. `--part test` chooses from all training rows and tests on the test rows. The classifier is the linear
probe. Batches end at the numbers of labels in BUDGETS. One line of JSON is one repetition, so an interrupted
study goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.active.space import Rows, Vectors, directions
from featcache.api.cache import Cache
from featcache.cache.reader import WRITTEN
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear, LinearOptions
from featcache.results.statistics import paired
from studies._command import main
from studies.suggest_strategies import STRATEGIES, View, fill

BUDGETS = (10, 20, 40, 60, 100, 150, 200)
Floats = NDArray[np.float64]
Part = tuple[Vectors, Rows]


def parts(path: Path, part: str, repeat: int) -> tuple[Part, Part]:
    """Return embeddings and labels of the rows to choose from, and of those to test on."""
    cache = Cache.open(path)
    pool = _readable(cache, "train")
    if part == "test":
        return pool, _readable(cache, "test")
    order = np.random.default_rng([repeat, 99]).permutation(len(pool[1]))
    held = 3 * len(order) // 10
    here, there = np.sort(order[held:]), order[:held]
    return (pool[0][here], pool[1][here]), (pool[0][there], pool[1][there])


def _readable(cache: Cache, name: str) -> Part:
    split = cache[name]
    rows = np.flatnonzero((split.status[:, 0] == WRITTEN) & (split.labels >= 0))
    return split.embeddings()[rows], split.labels[rows]


def follow(pool: Part, test: Part, name: str, repeat: int, budgets: Sequence[int]) -> list[float]:
    """Label batch after batch; return the accuracy (0 to 1) on the test rows after each."""
    (pooled, label), rng = pool, np.random.default_rng([repeat, 7])
    z, classes = directions(pooled), int(max(label.max(), test[1].max())) + 1
    labelled: Rows = np.zeros(0, np.int64)
    predict, found = None, []
    for budget in budgets:
        view, n = View(pooled, z, labelled, predict, rng), budget - len(labelled)
        chosen = fill(view, STRATEGIES[name](view, n), n)
        labelled = np.concatenate([labelled, chosen])
        fitted = fit(pooled, label, labelled, classes)
        predict = fitted if len(np.unique(label[labelled])) > 1 else None
        found.append(float((fitted(test[0]).argmax(1) == test[1]).mean()))
    return found


def fit(pooled: Vectors, label: Rows, rows: Rows, classes: int) -> Callable[[Vectors], Floats]:
    """Fit the linear probe; return its log-probabilities as a function of embeddings."""
    rows = np.sort(rows)
    data = ProbeData(torch.from_numpy(pooled[rows]), torch.from_numpy(label[rows]), classes, None)
    predict = Linear(LinearOptions()).fit(data, 0)
    return lambda asked: predict(torch.from_numpy(asked)).double().numpy()


def measure(asked: argparse.Namespace) -> None:
    """Append one line for each cache, strategy and repetition that the file lacks."""
    done = {_key(line) for line in _lines(asked.out)} if asked.out.exists() else set()
    for repeat in range(asked.repeats):
        for path in asked.caches:
            for name in asked.strategies:
                line = {"cache": path.stem, "part": asked.part, "strategy": name, "repeat": repeat}
                if _key(line) in done:
                    continue
                accuracy = follow(*parts(path, asked.part, repeat), name, repeat, asked.budgets)
                line |= {"budgets": list(asked.budgets), "accuracy": accuracy}
                with asked.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def labels_for(accuracy: float, budgets: Sequence[float], curve: Floats) -> float:
    """Return the least number of labels with which a curve reaches an accuracy; infinite if it never does.

    Between two budgets, the accuracy is linear in the logarithm of the number of labels. Before the first,
    the number is that of the first.

    >>> labels_for(0.6, (10, 20, 40), np.array([0.5, 0.7, 0.8])) == 10 * 2**0.5
    True
    """
    above = np.flatnonzero(curve >= accuracy - 1e-12)
    if not len(above):
        return float("inf")
    first = int(above[0])
    if first == 0:
        return float(budgets[0])
    share = (accuracy - curve[first - 1]) / (curve[first] - curve[first - 1])
    low, high = np.log(budgets[first - 1]), np.log(budgets[first])
    return float(np.exp(low + share * (high - low)))


def ratios(mine: Floats, random: Floats, budgets: Sequence[float], at: int) -> tuple[float, float, float]:
    """Return labels needed / `at`, and its 95 % interval: a bootstrap over the paired repetitions (R, B)."""
    place = list(budgets).index(at)

    def ratio(rows: NDArray[np.int64]) -> float:
        return labels_for(float(random[rows].mean(0)[place]), budgets, mine[rows].mean(0)) / at

    rng, repeats = np.random.default_rng(0), len(mine)
    drawn = [ratio(rng.integers(0, repeats, repeats)) for _ in range(2000)]
    # "inverted_cdf" takes one of the values: half of infinity is no number.
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return ratio(np.arange(repeats)), float(low), float(high)


def table(asked: argparse.Namespace) -> None:
    """Print accuracies, their mean over all budgets, paired differences to random labels, and ratios."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(dict)
    budgets: list[int] = []
    for line in _lines(asked.file):
        found[line["cache"], line["strategy"]][line["repeat"]] = line["accuracy"]
        budgets = line["budgets"]
    shown: list[int] = [at for at in (20, 40, 100, 200) if at in budgets]
    heads = [
        "data",
        "strategy",
        "runs",
        "mean",
        *(f"{at} labels" for at in shown),
        *(f"ratio at {at}" for at in shown[1:]),
    ]
    print("| " + " | ".join(heads) + " |")
    print("| " + " | ".join("---" for _ in heads) + " |")
    for cache, name in found:
        base, mine = found[cache, "random"], found[cache, name]
        common = sorted({*base} & {*mine})
        a, b = (np.array([one[repeat] for repeat in common]) for one in (mine, base))
        head = [cache, name, str(len(common)), f"{100 * a.mean():.1f}"]
        print("| " + " | ".join([*head, *_cells(a, b, budgets, shown, name)]) + " |")


def _cells(mine: Floats, random: Floats, budgets: list[int], shown: list[int], name: str) -> list[str]:
    cells = []
    for at in shown:
        column = mine[:, budgets.index(at)]
        gap = paired((100 * column).tolist(), (100 * random[:, budgets.index(at)]).tolist())
        extra = "" if name == "random" else f" ({gap.mean:+.1f} ± {gap.half_width:.1f})"
        cells.append(f"{100 * column.mean():.1f}{extra}")
    if name == "random":
        return [*cells, *("1" for _ in shown[1:])]
    for at in shown[1:]:
        cells.append("{:.2f} ({:.2f} to {:.2f})".format(*ratios(mine, random, budgets, at)))
    return cells


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["cache"], line["part"], line["strategy"], line["repeat"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `measure` takes."""
    parser.add_argument("--part", choices=("train", "test"), required=True)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=["random", "auto"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(__doc__, arguments, measure, table)
