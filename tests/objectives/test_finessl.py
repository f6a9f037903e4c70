"""FineSSL: its terms against loops, its views and gradients, and the effect of each part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Features, Views
from featcache.errors import ConfigError, TrainError
from featcache.objectives._margins import margin_cross_entropy
from featcache.objectives.finessl import FineSSL, FineSSLOptions

FULL = Views(("weak",), ("weak", "strong", "strong"))
MARGINS = 8 * 0.8 * torch.tensor([0.0, 0.6 / 1.4, 0.8 / 1.2])
"""Margins of classes with 5, 2 and 1 confident samples: s = 1, 0.4 and 0.2."""
SHARES = {"margin", "util_ratio", "confident"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# A step


def moved(world: Any, num_unlabelled: int = 12, **options: Any) -> FineSSL:
    """An objective in the middle of training: heads that differ, and a memory."""
    objective = FineSSL(FineSSLOptions.parse({"th": 0.6} | options), world.task(num_unlabelled))
    for seed, head in enumerate((objective.main, objective.aux)):
        if head is not None:
            head.weight.data += 0.4 * torch.randn(head.weight.shape, generator=generator(seed))
            head.log_scale.data.fill_(math.log(3 + seed))
    objective.status[:9] = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, -1])
    objective.seen.fill_(5)
    return objective


def step(objective: FineSSL, project: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss, terms = objective(project, batch, 0.5, generator())
    return loss, dict(terms)


def terms_by_hand(objective: FineSSL, project: Any, batch: Batch) -> dict[str, float]:
    """All terms, sample by sample, from the logits of both heads."""
    o, classes = objective.options, objective.task.num_classes
    main, aux, one_hot = objective.main, objective.aux, torch.eye(classes)

    def raised(row: Tensor, y: int) -> float:
        return F.cross_entropy(row + MARGINS[y] * (1 - one_hot[y]), one_hot[y]).item()

    def smoothed(row: Tensor, y: int) -> float:
        spread = o.eps / (classes - 1)
        return F.cross_entropy(row, torch.where(one_hot[y].bool(), 1 - o.eps, spread)).item()

    with torch.no_grad():
        own = project(batch.labelled[0])
        weak, *strong = [project(view) for view in batch.unlabelled]
        pseudo, smooth, weights = [], [], []
        for i, (q, r) in enumerate(zip(main(weak).softmax(1), aux(weak).softmax(1), strict=True)):
            y, weight = int(q.argmax()), r.max().item()
            weights.append(weight if weight >= o.th_min else 0.0)
            pseudo += [weights[-1] * raised(main(z)[i], y) for z in strong]
            smooth += [smoothed(aux(z)[i], y) for z in strong if q.max() >= o.th]
        return {
            "ce_cond": float(np.mean([raised(main(own)[i], y) for i, y in enumerate(batch.label.tolist())])),
            "ce_aux": F.cross_entropy(aux(own), batch.label).item(),
            "ce_pseudo": float(np.mean(pseudo)),
            "ce_smooth": float(np.mean(smooth)),
            "margin": MARGINS.max().item(),
            "util_ratio": float(np.mean(weights)),
            "confident": len(smooth) / len(pseudo),
        }


@pytest.mark.parametrize("th_min", [0.0, 0.7])
def test_terms_and_total_match_a_direct_computation(world: Any, th_min: float) -> None:
    objective, projector, batch = moved(world, th_min=th_min), world.projector(), world.batch(FULL)
    expected = terms_by_hand(objective, projector, batch)
    loss, terms = step(objective, projector, batch)
    assert 0 < expected["confident"] < 1
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)
    total = expected["ce_cond"] + expected["ce_aux"] + 3 * expected["ce_pseudo"] + expected["ce_smooth"]
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_no_confident_sample_gives_no_smoothing_term(world: Any) -> None:
    loss, terms = step(moved(world, th=1.0), world.projector(), world.batch(FULL))
    assert terms["confident"] == terms["ce_smooth"] == 0
    assert torch.isfinite(loss)


def test_both_heads_start_alike_and_main_predicts(world: Any) -> None:
    objective = FineSSL(FineSSLOptions(), world.task())
    assert objective.aux is not None
    for one, two in zip(objective.main.parameters(), objective.aux.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one is not two
    later, z = moved(world), world.centres
    assert torch.equal(later.logits(z), later.main(z))


@pytest.mark.parametrize("classes", [2, 1000])
def test_finite_where_labels_contradict_the_model(make_world: Callable[..., Any], classes: int) -> None:
    world = make_world(classes)
    objective = FineSSL(FineSSLOptions(), world.task())
    for head in (objective.main, objective.aux):
        assert head is not None
        head.log_scale.data.fill_(math.log(100))
    objective.status[:50] = 0
    projector, batch = world.projector(), world.batch(FULL)
    wrong = batch._replace(label=(batch.label + 1) % classes)
    loss, terms = step(objective, projector, wrong)
    loss.backward()
    assert terms["ce_cond"] > 20
    assert torch.isfinite(torch.stack([loss, *terms.values()])).all()
    for parameter in [*objective.parameters(), *projector.parameters()]:
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("views", [FULL, Views(("weak",))])
def test_without_unlabelled_samples_it_is_supervised_with_margins(world: Any, views: Views) -> None:
    batch = world.batch(views, unlabelled_rows=0)
    objective, projector = moved(world), world.projector()
    loss, terms = step(objective, projector, batch)
    z = projector(batch.labelled[0])
    main = margin_cross_entropy(objective.main(z), batch.label, MARGINS).mean()
    torch.testing.assert_close(loss, main + F.cross_entropy(objective.aux(z), batch.label))
    assert set(terms) == {"ce_cond", "ce_aux", "margin"}


# Views


@pytest.mark.parametrize(
    ("available", "unlabelled"),
    [
        (("eval",), ("eval",)),
        (("eval", "weak"), ("weak", "weak")),
        (("eval", "strong"), ("eval", "strong", "strong")),
        (("eval", "weak", "strong"), ("weak", "strong", "strong")),
    ],
)
def test_reads_the_nearest_to_one_weak_and_two_strong_views(
    world: Any, available: tuple[str, ...], unlabelled: tuple[str, ...]
) -> None:
    views = FineSSL(FineSSLOptions(), world.task()).views(available)
    assert views == Views((unlabelled[0],), unlabelled)
    assert FineSSL(FineSSLOptions(), world.task(0)).views(available) == Views((unlabelled[0],), ())


def test_a_single_view_is_both_weak_and_strong(world: Any) -> None:
    batch = world.batch(Views(("eval",), ("eval",)))
    one, two = (moved(world) for _ in range(2))
    loss, _ = step(one, world.projector(), batch)
    twice, _ = step(two, world.projector(), batch._replace(unlabelled=batch.unlabelled * 3))
    torch.testing.assert_close(loss, twice)


# Gradients


def pooled(features: Features) -> Tensor:
    return features.pooled


def leaves(world: Any, objective: FineSSL) -> tuple[Batch, list[Tensor]]:
    """A batch whose four z (labelled, weak, strong, strong) are leaves, in float64."""
    batch = world.batch(FULL)
    views = [*batch.labelled, *batch.unlabelled]
    z = [view.pooled.double().requires_grad_() for view in views]
    made = [Features(view.tokens, None, leaf) for view, leaf in zip(views, z, strict=True)]
    objective.double().eval()
    return Batch((made[0],), batch.label, tuple(made[1:]), batch.unlabelled_index), z


def test_pseudo_labels_and_the_auxiliary_head_move_no_features(world: Any) -> None:
    gradients = []
    for aux in (True, False):
        objective = moved(world, aux=aux, reweight=False)
        batch, z = leaves(world, objective)
        step(objective, pooled, batch)[0].backward()
        assert z[1].grad is None
        gradients.append([z[i].grad for i in (0, 2, 3)])
    for one, two in zip(*gradients, strict=True):
        assert one is not None
        assert one.abs().max() > 0
        assert torch.equal(one, two)


def test_the_weight_moves_no_head(world: Any) -> None:
    gradients = []
    for w_con in (0.0, 3.0):
        objective = moved(world, w_con=w_con)
        batch, _ = leaves(world, objective)
        step(objective, pooled, batch)[0].backward()
        assert objective.aux is not None
        gradients.append(objective.aux.weight.grad)
    assert gradients[0] is not None
    assert torch.equal(*gradients)


def test_the_gradient_of_a_step_is_that_of_finite_differences(world: Any) -> None:
    objective = moved(world, aux=False)
    batch, z = leaves(world, objective)

    def loss(own: Tensor, *strong: Tensor) -> Tensor:
        labelled = (batch.labelled[0]._replace(pooled=own),)
        unlabelled = [view._replace(pooled=at) for view, at in zip(batch.unlabelled[1:], strong, strict=True)]
        changed = Batch(labelled, batch.label, (batch.unlabelled[0], *unlabelled), batch.unlabelled_index)
        return step(objective, pooled, changed)[0]

    assert torch.autograd.gradcheck(loss, (z[0], z[2], z[3]))


# Every part by itself


def differing(world: Any, **options: Any) -> tuple[dict[str, Tensor], set[str]]:
    """The terms with a part switched off, and the names of those that this changes."""
    projector, batch = world.projector(), world.batch(FULL)
    _, whole = step(moved(world), projector, batch)
    _, terms = step(moved(world, **options), projector, batch)
    changed = {name for name in whole if name not in terms or not torch.equal(whole[name], terms[name])}
    return terms, changed


def logits(world: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(labelled, weak, strong, strong) logits of the main and of the auxiliary head."""
    objective, projector, batch = moved(world), world.projector(), world.batch(FULL)
    assert objective.aux is not None
    with torch.no_grad():
        z = [projector(view) for view in (*batch.labelled, *batch.unlabelled)]
        return [objective.main(row) for row in z], [objective.aux(row) for row in z]


def test_without_margin(world: Any) -> None:
    terms, changed = differing(world, margin=False)
    assert changed == {"ce_cond", "ce_pseudo", "margin"}
    assert terms["margin"] == 0
    plain = F.cross_entropy(logits(world)[0][0], world.batch(FULL).label)
    torch.testing.assert_close(terms["ce_cond"], plain)


def test_without_smoothing(world: Any) -> None:
    terms, changed = differing(world, smoothing=False)
    assert changed == {"ce_smooth"}
    main, aux = logits(world)
    confidence, label = main[1].softmax(1).max(1)
    chosen = confidence >= 0.6
    hard = [F.cross_entropy(at[chosen], label[chosen]) for at in aux[2:]]
    torch.testing.assert_close(terms["ce_smooth"], torch.stack(hard).mean())


def test_without_reweighting_the_threshold_selects(world: Any) -> None:
    terms, changed = differing(world, reweight=False)
    assert changed == {"ce_pseudo", "util_ratio"}
    assert terms["util_ratio"] == terms["confident"]
    main, _ = logits(world)
    confidence, label = main[1].softmax(1).max(1)
    losses = torch.stack([margin_cross_entropy(at, label, MARGINS) for at in main[2:]])
    torch.testing.assert_close(terms["ce_pseudo"], (losses * (confidence >= 0.6)).mean())


def test_without_auxiliary_head_the_main_one_weighs(world: Any) -> None:
    terms, changed = differing(world, aux=False)
    assert changed == {"ce_aux", "ce_smooth", "ce_pseudo", "util_ratio"}
    assert set(terms) == {"ce_cond", "ce_pseudo", *SHARES}
    torch.testing.assert_close(terms["util_ratio"], logits(world)[0][1].softmax(1).amax(1).mean())
    assert not any(name.startswith("aux") for name in moved(world, aux=False).state_dict())


def test_options_are_checked(make_world: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        FineSSLOptions.parse({"alpha": -1})
    FineSSL(FineSSLOptions(eps=0.6), make_world(3).task())
    FineSSL(FineSSLOptions(eps=0.6, smoothing=False), make_world(2).task())
    with pytest.raises(TrainError, match=r"objective\.eps"):
        FineSSL(FineSSLOptions(eps=0.6), make_world(2).task())
