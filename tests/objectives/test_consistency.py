"""Pseudo-labelling methods against plain loops over lists, with their memory over several steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache import plugins
from featcache.objectives._consistency import Evidence
from featcache.objectives.base import Task
from featcache.objectives.freematch import fairness

METHODS = ["pseudo_label", "fixmatch", "flexmatch", "freematch", "softmatch", "debiaspl"]
every_method = pytest.mark.parametrize("key", METHODS)
POOL, STEPS, ROWS = 20, 4, 6
Rows = list[list[float]]


def make(key: str, task: Task, **options: Any) -> Any:
    kind = plugins.find("objectives", key).objective
    return kind(kind.Options.parse(options), task)


def softmax(row: Sequence[float], t: float = 1.0) -> list[float]:
    weights = [math.exp((value - max(row)) / t) for value in row]
    return [weight / sum(weights) for weight in weights]


def mean(rows: Rows) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def top(row: Sequence[float]) -> tuple[float, int]:
    return max(row), max(range(len(row)), key=row.__getitem__)


def histogram(labels: Sequence[int], classes: int) -> list[float]:
    return [sum(label == c for label in labels) / len(labels) for c in range(classes)]


class ByHand:
    """A method in plain Python: targets and weights of a batch, and the memory of it."""

    def __init__(self, key: str, options: Any, classes: int) -> None:
        self.key, self.o, self.classes = key, options, classes
        uniform = [1 / classes] * classes
        groups = classes if key == "softmatch" and options.per_class else 1
        self.memory: dict[str, Any] = {
            "flexmatch": {"selected_label": [-1] * POOL},
            "freematch": {"time_p": 1 / classes, "p_model": uniform, "label_hist": uniform},
            "softmatch": {
                "p_model": [0.0] * classes,
                "p_target": uniform,
                "prob_max_mu": [1 / classes] * groups,
                "prob_max_var": [1.0] * groups,
            },
            "debiaspl": {"p_hat": uniform},
        }.get(key, {})

    def move(self, name: str, now: Any) -> Any:
        past, keep = self.memory[name], self.o.ema_p
        if isinstance(past, list):
            self.memory[name] = [keep * a + (1 - keep) * b for a, b in zip(past, now, strict=True)]
        else:
            self.memory[name] = keep * past + (1 - keep) * now
        return self.memory[name]

    def guess(self, weak: Rows, labelled: Rows, position: list[int]) -> tuple[Rows, list[float]]:
        q = [softmax(row) for row in weak]
        weights: list[float] = getattr(self, self.key)(q, [softmax(row) for row in labelled], position)
        if self.key == "debiaspl":
            weak = self.debiased(weak)
        if getattr(self.o, "hard_label", True):
            return [[float(c == top(row)[1]) for c in range(self.classes)] for row in weak], weights
        return [softmax(row, self.o.T) for row in weak], weights

    def fixmatch(self, q: Rows, labelled: Rows, position: list[int]) -> list[float]:
        return [float(top(row)[0] >= self.o.p_cutoff) for row in q]

    pseudo_label = fixmatch

    def debiased(self, weak: Rows) -> Rows:
        bias = [self.o.tau * math.log(p) for p in self.memory["p_hat"]]
        return [[value - b for value, b in zip(row, bias, strict=True)] for row in weak]

    def debiaspl(self, q: Rows, labelled: Rows, position: list[int]) -> list[float]:
        self.move("p_hat", mean(q))
        logs = [[math.log(p) for p in row] for row in q]
        return self.fixmatch([softmax(row) for row in self.debiased(logs)], labelled, position)

    def flexmatch(self, q: Rows, labelled: Rows, position: list[int]) -> list[float]:
        selected = self.memory["selected_label"]
        sigma = [selected.count(c) for c in range(self.classes)]
        rival = max([*sigma, selected.count(-1)] if self.o.thresh_warmup else [*sigma, 1])
        beta = [s / rival for s in sigma]
        weights = []
        for row, at in zip(q, position, strict=True):
            confidence, c = top(row)
            weights.append(float(confidence >= self.o.p_cutoff * beta[c] / (2 - beta[c])))
            if confidence >= self.o.p_cutoff:
                selected[at] = c
        return weights

    def freematch(self, q: Rows, labelled: Rows, position: list[int]) -> list[float]:
        confidences = [top(row)[0] for row in q]
        typical = float(np.quantile(confidences, 0.8)) if self.o.use_quantile else fmean(confidences)
        self.move("time_p", typical)
        if self.o.clip_thresh:
            self.memory["time_p"] = min(self.memory["time_p"], 0.95)
        p = self.move("p_model", mean(q))
        self.move("label_hist", histogram([top(row)[1] for row in q], self.classes))
        return [float(c >= self.memory["time_p"] * p[y] / max(p)) for c, y in map(top, q)]

    def softmatch(self, q: Rows, labelled: Rows, position: list[int]) -> list[float]:
        o, m = self.o, self.memory
        if o.dist_align:
            m["p_model"] = self.move("p_model", mean(q)) if any(m["p_model"]) else mean(q)
            if not o.dist_uniform:
                self.move("p_target", mean(labelled))
            ratio = [(t + 1e-6) / (p + 1e-6) for t, p in zip(m["p_target"], m["p_model"], strict=True)]
            q = [[a * b for a, b in zip(row, ratio, strict=True)] for row in q]
            q = [[a / sum(row) for a in row] for row in q]
        own = [top(row) if o.per_class else (top(row)[0], 0) for row in q]
        for g in range(len(m["prob_max_mu"])):
            mine = [confidence for confidence, group in own if group == g]
            if len(mine) > 1:
                m["prob_max_mu"][g] += (1 - o.ema_p) * (fmean(mine) - m["prob_max_mu"][g])
                m["prob_max_var"][g] += (1 - o.ema_p) * (variance(mine) - m["prob_max_var"][g])
        sigma = [math.sqrt(v) / o.n_sigma for v in m["prob_max_var"]]
        return [
            1.0 if c >= m["prob_max_mu"][g] else math.exp(-0.5 * ((c - m["prob_max_mu"][g]) / sigma[g]) ** 2)
            for c, g in own
        ]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("pseudo_label", {"p_cutoff": 0.6}),
    ("fixmatch", {"p_cutoff": 0.6}),
    ("fixmatch", {"p_cutoff": 0.8, "hard_label": False, "T": 0.3}),
    ("flexmatch", {"p_cutoff": 0.7}),
    ("flexmatch", {"p_cutoff": 0.6, "thresh_warmup": False, "hard_label": False}),
    ("freematch", {}),
    ("freematch", {"ema_p": 0.5, "use_quantile": True, "hard_label": False}),
    ("freematch", {"ema_p": 0.1, "clip_thresh": True}),
    ("softmatch", {}),
    ("softmatch", {"ema_p": 0.6, "dist_uniform": False, "n_sigma": 3, "hard_label": False, "T": 2.0}),
    ("softmatch", {"ema_p": 0.4, "dist_align": False, "per_class": True}),
    ("debiaspl", {"p_cutoff": 0.6}),
    ("debiaspl", {"p_cutoff": 0.7, "tau": 1.5, "ema_p": 0.3, "hard_label": False}),
]


def task(classes: int) -> Task:
    weight = torch.randn(classes, 4, generator=torch.Generator().manual_seed(0))
    return Task(classes, 4, 4, POOL, torch.ones(classes), torch.zeros(4), weight)


@pytest.mark.parametrize(("key", "options"), CASES)
@given(classes=st.integers(2, 5), seed=st.integers(0, 9999))
@settings(max_examples=15, deadline=None)
def test_targets_weights_and_memory_match_loops(
    key: str, options: dict[str, Any], classes: int, seed: int
) -> None:
    objective = make(key, task(classes), **options).double()
    hand, rng = ByHand(key, objective.options, classes), np.random.default_rng(seed)
    for _ in range(STEPS):
        weak, labelled = (rng.normal(0, rng.uniform(0.5, 6), (n, classes)) for n in (ROWS, 3))
        position = rng.permutation(POOL)[:ROWS]
        guess = objective.guess(Evidence(*map(torch.from_numpy, (weak, labelled, position))))
        target, weight = hand.guess(weak.tolist(), labelled.tolist(), position.tolist())
        np.testing.assert_allclose(guess.target, target, atol=1e-9)
        np.testing.assert_allclose(guess.sample_weight, weight, atol=1e-9)
        for name, value in hand.memory.items():
            np.testing.assert_allclose(objective.get_buffer(name), value, atol=1e-9, err_msg=name)


def fairness_by_hand(strong: Rows, mask: list[float], p_model: list[float], label_hist: list[float]) -> float:
    used = [softmax(row) for row, m in zip(strong, mask, strict=True) if m]
    if not used:
        return 0.0
    seen = histogram([top(row)[1] for row in used], len(p_model))
    found = [p / h if h else 0.0 for p, h in zip(mean(used), seen, strict=True)]
    wanted = [p / h if h else 0.0 for p, h in zip(p_model, label_hist, strict=True)]
    pairs = zip(wanted, found, strict=True)
    return sum(w / sum(wanted) * math.log(f / sum(found) + 1e-12) for w, f in pairs)


@every_method
@pytest.mark.parametrize("available", [("eval",), ("eval", "weak"), ("eval", "weak", "strong")])
def test_loss_and_terms_match_loops(key: str, available: tuple[str, ...], world: Any) -> None:
    objective, projector = make(key, world.task(), w_u=0.7).double(), world.projector().double()
    batch = world.batch(objective.views(available))
    loss, terms = objective(projector, batch, 0.1, torch.Generator())
    with torch.no_grad():
        labelled, weak, strong = (
            objective.logits(projector(view)).tolist()
            for view in (batch.labelled[0], batch.unlabelled[0], batch.unlabelled[-1])
        )
    hand = ByHand(key, objective.options, 3)
    target, weight = hand.guess(weak, labelled, batch.unlabelled_index.tolist())
    if key == "debiaspl":
        strong = [
            [s + 0.4 * math.log(p) for s, p in zip(r, hand.memory["p_hat"], strict=True)] for r in strong
        ]
    pseudo = fmean(
        -w * sum(t * math.log(q) for t, q in zip(row, softmax(logits), strict=True))
        for w, row, logits in zip(weight, target, strong, strict=True)
    )
    expected = {
        "ce_cond": fmean(
            -math.log(softmax(r)[y]) for r, y in zip(labelled, batch.label.tolist(), strict=True)
        ),
        "ce_pseudo": pseudo,
        "util_ratio": fmean(weight),
    }
    total = expected["ce_cond"] + 0.7 * (0.25 if key == "pseudo_label" else 1) * pseudo
    if key == "freematch":
        averages = hand.memory["p_model"], hand.memory["label_hist"]
        expected["ent_loss"] = fairness_by_hand(strong, weight, *averages)
        total += 0.01 * expected["ent_loss"]
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)
    assert float(loss.detach()) == pytest.approx(total)


@given(classes=st.integers(2, 6), rows=st.integers(1, 8), seed=st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_fairness_matches_loops(classes: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    strong, mask = rng.normal(0, 3, (rows, classes)), (rng.random(rows) < 0.6).astype(float)
    p_model, label_hist = rng.dirichlet(np.ones(classes)), rng.dirichlet(np.ones(classes))
    label_hist[0] = 0
    arguments = (strong, mask, p_model, label_hist)
    value = fairness(*map(torch.from_numpy, arguments))
    assert float(value) == pytest.approx(fairness_by_hand(*(a.tolist() for a in arguments)), abs=1e-9)
