"""Pseudo-labelling methods at the edges: gradients, memory, few and many classes, no confident sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache import plugins
from featcache.batch import Batch, Views
from featcache.errors import ConfigError
from featcache.objectives._consistency import Consistency, Evidence, weighted_cross_entropy
from featcache.objectives.base import Task
from featcache.objectives.debiaspl import DebiasPL
from featcache.objectives.flexmatch import FlexMatch, convex
from featcache.objectives.freematch import FreeMatch, fairness
from featcache.objectives.softmatch import SoftMatch, truncated_gaussian
from featcache.objectives.supervised import Supervised, SupervisedOptions

MEMORY: dict[str, set[str]] = {
    "pseudo_label": set(),
    "fixmatch": set(),
    "flexmatch": {"selected_label"},
    "freematch": {"time_p", "p_model", "label_hist"},
    "softmatch": {"p_model", "prob_max_mu", "prob_max_var"},
    "debiaspl": {"p_hat"},
}
METHODS = list(MEMORY)
every_method = pytest.mark.parametrize("key", METHODS)
STRONG = Views(("weak",), ("weak", "strong"))


def make(key: str, task: Task, **options: Any) -> Any:
    kind = plugins.find("objectives", key).objective
    return kind(kind.Options.parse(options), task)


def test_gradients_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    target, share = logits.flip(0).softmax(1), logits[0].softmax(0)
    logits.requires_grad_()
    weight, mask = torch.linspace(0, 1, 5).double(), torch.tensor([1.0, 0, 1, 1, 0]).double()
    assert torch.autograd.gradcheck(lambda x: weighted_cross_entropy(x, target, weight), logits)
    assert torch.autograd.gradcheck(lambda x: fairness(x, mask, share, share.flip(0)), logits)
    assert torch.autograd.gradcheck(lambda x: fairness(x, 0 * mask, share, share), logits)
    confidence = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    level, var = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.05, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: truncated_gaussian(x, level, var, 2), confidence)
    assert torch.autograd.gradcheck(convex, confidence)


def leaves(batch: Batch) -> tuple[Batch, list[Tensor]]:
    tokens = [view.tokens.float().requires_grad_() for view in batch.unlabelled]
    views = tuple(view._replace(tokens=t) for view, t in zip(batch.unlabelled, tokens, strict=True))
    return batch._replace(unlabelled=views), tokens


@pytest.mark.parametrize("key", METHODS[1:])
@pytest.mark.parametrize("hard_label", [True, False])
def test_no_gradient_passes_through_the_weak_view(key: str, hard_label: bool, world: Any) -> None:
    batch, (weak, strong) = leaves(world.batch(STRONG))
    easy = {"p_cutoff": 0.0} if key in ("fixmatch", "flexmatch", "debiaspl") else {}
    objective = make(key, world.task(), hard_label=hard_label, **easy)
    objective(world.projector(), batch, 1.0, torch.Generator())[0].backward()
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad.abs().max() > 0


def test_one_view_is_a_constant_as_a_target(world: Any) -> None:
    batch, (tokens,) = leaves(world.batch(Views(("eval",), ("eval",))))
    objective, twin = (make("softmatch", world.task(), hard_label=False) for _ in range(2))
    projector = world.projector()
    objective(projector, batch, 1.0, torch.Generator())[0].backward()
    unlabelled, labelled = (twin.logits(projector(view)) for view in (batch.unlabelled[0], batch.labelled[0]))
    guess = twin.guess(Evidence(unlabelled.detach(), labelled.detach(), batch.unlabelled_index))
    (expected,) = torch.autograd.grad(
        (guess.sample_weight * F.cross_entropy(unlabelled, guess.target, reduction="none")).mean(), tokens
    )
    torch.testing.assert_close(tokens.grad, expected)


def strict(key: str, task: Task) -> Consistency[Any]:
    """A method whose thresholds no sample reaches."""
    objective = make(key, task, **({} if key in ("freematch", "softmatch") else {"p_cutoff": 1.0}))
    if isinstance(objective, FlexMatch):
        objective.selected_label.copy_(torch.arange(task.num_unlabelled) % task.num_classes)
    if isinstance(objective, FreeMatch):
        objective.time_p.fill_(1.5)
    if isinstance(objective, SoftMatch):
        objective.prob_max_mu.fill_(2.0)
        objective.prob_max_var.fill_(1e-6)
    return objective.eval()


@every_method
def test_where_nothing_is_believed_only_labels_teach(key: str, world: Any) -> None:
    batch, projector = world.batch(STRONG), world.projector()
    objective = strict(key, world.task(num_unlabelled=99))
    loss, terms = objective(projector, batch, 1.0, torch.Generator())
    loss.backward()
    assert terms["ce_pseudo"] == terms["util_ratio"] == terms.get("ent_loss", 0) == 0
    torch.testing.assert_close(loss, terms["ce_cond"])
    other = world.projector()
    Supervised(SupervisedOptions(), world.task())(other, batch, 1.0, torch.Generator())[0].backward()
    for mine, its in zip(projector.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@every_method
@pytest.mark.parametrize("views", [Views(("weak",), ()), STRONG])
def test_without_unlabelled_rows_it_is_supervised(key: str, views: Views, world: Any) -> None:
    objective, batch = make(key, world.task(num_unlabelled=0)), world.batch(views, unlabelled_rows=0)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    loss, terms = objective(world.projector(), batch, 1.0, torch.Generator())
    plain, _ = Supervised(SupervisedOptions(), world.task())(world.projector(), batch, 1.0, torch.Generator())
    assert torch.equal(loss, plain)
    assert set(terms) == {"ce_cond"}
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert objective.views(("eval", "weak", "strong")) == Views(("weak",), ())


@every_method
@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize("unlabelled", [1, 12])
def test_it_is_finite_at_the_edges(
    key: str, classes: int, unlabelled: int, make_world: Callable[..., Any]
) -> None:
    world = make_world(classes)
    objective, projector = make(key, world.task()), world.projector()
    for seed in range(2):
        loss, terms = objective(
            projector, world.batch(STRONG, unlabelled_rows=unlabelled, seed=seed), 1.0, torch.Generator()
        )
        loss.backward()
        assert torch.isfinite(torch.stack([loss, *terms.values()])).all()
    parameters = [*objective.parameters(), *projector.parameters()]
    assert all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)


@every_method
@pytest.mark.parametrize("classes", [2, 1000])
def test_confident_and_wrong_is_costly_but_finite(
    key: str, classes: int, make_world: Callable[..., Any]
) -> None:
    objective = make(key, make_world(classes).task())
    weak = torch.full((4, classes), -100.0)
    weak[:, 0] = 100.0
    guess = objective.guess(Evidence(weak, weak, torch.arange(4)))
    strong = (-weak).requires_grad_()
    loss = sum(w * objective.terms(strong, guess)[name] for name, w in objective.term_weights(1.0).items())
    loss.backward()
    assert 150 < float(loss.detach()) < 250
    assert torch.isfinite(strong.grad).all()
    again = objective.guess(Evidence(weak, weak, torch.arange(4)))
    assert torch.isfinite(again.sample_weight).all()
    assert all(torch.isfinite(buffer).all() for buffer in objective.buffers())


@every_method
def test_memory_moves_in_training_only_and_is_saved(key: str, world: Any) -> None:
    objective, projector = make(key, world.task()), world.projector()
    start = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.eval()(projector, world.batch(STRONG), 1.0, torch.Generator())
    assert all(torch.equal(value, start[name]) for name, value in objective.state_dict().items())
    objective.train()
    for seed in range(3):
        objective(projector, world.batch(STRONG, seed=seed), 1.0, torch.Generator())
    moved = {name for name, value in objective.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == MEMORY[key]
    resumed = make(key, world.task())
    resumed.load_state_dict(objective.state_dict())
    batch = world.batch(STRONG, seed=9)
    one, two = (o(projector, batch, 1.0, torch.Generator()) for o in (objective, resumed))
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(value, two[1][name]) for name, value in one[1].items())


@every_method
def test_views(key: str, world: Any) -> None:
    objective, last = make(key, world.task()), slice(0, 1 if key == "pseudo_label" else 2)
    assert objective.views(("eval",)) == Views(("eval",), ("eval",))
    assert objective.views(("eval", "weak")) == Views(("weak",), ("weak", "weak")[last])
    assert objective.views(("eval", "strong")) == Views(("eval",), ("eval", "strong")[last])
    assert objective.views(("eval", "weak", "strong")) == Views(("weak",), ("weak", "strong")[last])


def test_a_class_that_is_guessed_too_often_needs_more(world: Any) -> None:
    """DebiasPL changes the pseudo-label; with strength zero it is FixMatch."""
    weak = torch.tensor([[1.0, 0.9, -5.0]])
    evidence = Evidence(weak, weak, torch.tensor([0]))
    labels = {}
    for tau in (0.0, 1.0):
        objective = make("debiaspl", world.task(), tau=tau)
        assert isinstance(objective, DebiasPL)
        objective.p_hat.copy_(torch.tensor([0.7, 0.2, 0.1]))
        labels[tau] = int(objective.guess(evidence).target.argmax())
    assert labels == {0.0: 0, 1.0: 1}
    fixed = make("fixmatch", world.task())(world.projector(), world.batch(STRONG), 1.0, torch.Generator())
    unbiased = make("debiaspl", world.task(), tau=0)(
        world.projector(), world.batch(STRONG), 1.0, torch.Generator()
    )
    assert torch.equal(fixed[0], unbiased[0])


@pytest.mark.parametrize(("warmup", "beta"), [(True, [6 / 11, 3 / 11, 0]), (False, [1, 1 / 2, 0])])
def test_flexmatch_counts_the_undecided(warmup: bool, beta: list[float], world: Any) -> None:
    objective = make("flexmatch", world.task(num_unlabelled=20), thresh_warmup=warmup)
    assert isinstance(objective, FlexMatch)
    assert objective.learning_effect().tolist() == [0, 0, 0]
    objective.selected_label.copy_(torch.tensor([0] * 6 + [1] * 3 + [-1] * 11))
    assert objective.learning_effect().tolist() == pytest.approx(beta)
    objective.selected_label.fill_(2)
    assert objective.learning_effect().tolist() == [0, 0, 1]


def test_the_weight_of_pseudo_labels_rises(world: Any) -> None:
    rising = make("pseudo_label", world.task(), w_u=2.0)
    assert [rising.term_weights(p)["ce_pseudo"] for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0, 1, 2, 2])
    at_once = make("pseudo_label", world.task(), unsup_warm_up=0.0)
    assert at_once.term_weights(0.0) == {"ce_pseudo": 1.0}


@pytest.mark.parametrize("options", [{"p_cutoff": 1.5}, {"T": 0}, {"w_u": -1}, {"lambda_u": 1}])
def test_options_are_checked(options: dict[str, Any], world: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make("fixmatch", world.task(), **options)
