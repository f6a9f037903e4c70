"""Content and style: terms against numpy, the parameters each weight moves, initial values, edge cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Batch, Views
from featcache.errors import ConfigError, TrainError
from featcache.nn.heads import CosineHead
from featcache.nn.init import on_sphere
from featcache.objectives.content_style import ContentStyle, ContentStyleOptions, reconstruction

WEAK = Views(("weak",), ("weak",))
OFF: dict[str, Any] = {"w_content": 0.0, "w_style": 0.0, "w_rec": 0.0}
TERMS = {"ce_cond", "rec", "kl_content", "critic_content", "kl_style", "critic_style"}
Array = NDArray[np.float64]


def make(world: Any, away: float = 0.3, **options: Any) -> ContentStyle:
    """An objective `away` from its start, where the decoder ignores the content."""
    small = {"style_dim": 4, "critic_hidden": 16, "ramp": 0.0}
    objective = ContentStyle(ContentStyleOptions.parse(small | options), world.task())
    generator = torch.Generator().manual_seed(1)
    for parameter in objective.parameters():
        parameter.data += away * torch.randn(parameter.shape, generator=generator)
    return objective


def run(
    world: Any, batch: Batch | None = None, progress: float = 1.0, **options: Any
) -> tuple[ContentStyle, Any, dict[str, Tensor]]:
    """One step from fresh modules, with gradients in place; the terms and the `loss`."""
    objective, projector = make(world, **options), world.projector()
    batch = batch or world.batch(WEAK)
    loss, terms = objective(projector, batch, progress, torch.Generator().manual_seed(0))
    loss.backward()
    return objective, projector, {**terms, "loss": loss.detach()}


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    zeros = torch.zeros_like
    return {name: zeros(p) if p.grad is None else p.grad for name, p in module.named_parameters()}


def array(x: Tensor) -> Array:
    values: Array = x.detach().double().numpy()
    return values


def log_softmax(x: Array) -> Array:
    total: Array = np.exp(x).sum(axis=1, keepdims=True)
    return x - np.log(total)


def critic(module: torch.nn.Module, x: Array) -> Array:
    """The critic's logits, layer by layer."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        x = x @ array(layer.weight).T + array(layer.bias)
        x = x if layer is layers[-1] else np.where(x > 0, x, 0.2 * x)
    return x[:, 0]


def steepness(module: torch.nn.Module, x: Array) -> Any:
    """E |d logit/dx|^2 by the chain rule, row by row."""
    first, second, last = (m for m in module.modules() if isinstance(m, torch.nn.Linear))
    total = []
    for row in x:
        slopes = np.eye(len(row))
        for layer in (first, second):
            row = array(layer.weight) @ row + array(layer.bias)
            slopes = np.where(row > 0, 1, 0.2)[:, None] * (array(layer.weight) @ slopes)
            row = np.where(row > 0, row, 0.2 * row)
        total.append(np.sum((array(last.weight) @ slopes) ** 2))
    return np.mean(total)


def by_hand(objective: ContentStyle, z: Array, frozen: Array, label: Array, draws: dict[str, Array]) -> Any:
    """Every term in numpy, from latents of which the first are labelled."""
    center, weight = array(objective.head.center), array(objective.head.weight)
    direction = (z - center) / np.linalg.norm(z - center, axis=1, keepdims=True)
    weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    log_q = log_softmax(float(objective.head.scale.detach()) * direction @ weight.T)
    target = (frozen - center) / np.linalg.norm(frozen - center, axis=1, keepdims=True)
    root = np.sqrt(z.shape[1])
    parts = {"content": np.exp(log_q), "style": root * direction @ array(objective.style.weight).T}
    decoded = array(objective.from_content.bias) + parts["style"] @ array(objective.from_style.weight).T
    decoded = decoded + parts["content"] @ array(objective.from_content.weight).T
    expected = {
        "ce_cond": -np.mean([log_q[i, y] for i, y in enumerate(label)]),
        "rec": np.mean(np.sum((root * target - decoded) ** 2, axis=1)) / 2 / z.shape[1],
    }
    for name, part in parts.items():
        module = objective.critics[name]
        real, fake = critic(module, draws[name]), critic(module, part)
        expected[f"kl_{name}"] = -fake.mean()
        right = np.log1p(np.exp(-real)).mean(), np.log1p(np.exp(fake)).mean()
        slope = steepness(module, np.concatenate([draws[name], part]))
        expected[f"critic_{name}"] = sum(right) / 2 + objective.options.critic_penalty * slope
    return expected


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_terms_and_total_match_numpy(world: Any, penalty: float) -> None:
    batch = world.batch(WEAK)
    weights = {"w_content": 0.7, "w_style": 0.3, "w_rec": 2.0, "critic_penalty": penalty}
    objective, projector, terms = run(world, batch, progress=0.1, **weights | {"ramp": 0.5})
    rows = (batch.labelled[0], batch.unlabelled[0])
    z = np.concatenate([array(projector(features)) for features in rows])
    frozen = np.concatenate([array(features.pooled) for features in rows])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.full((3,), 1 / 3), 16, replacement=True, generator=generator)
    draws = {"content": np.eye(3)[drawn.numpy()], "style": array(torch.randn(16, 4, generator=generator))}
    expected = by_hand(objective, z, frozen, batch.label.numpy(), draws)
    latent = 0.7 * expected["kl_content"] + 0.3 * expected["kl_style"] + 2 * expected["rec"]
    critics = expected["critic_content"] + expected["critic_style"]
    expected["loss"] = expected["ce_cond"] + 0.2 * latent + critics
    assert set(expected) == TERMS | {"loss"}
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_reconstruction_is_a_gaussian_log_density(rows: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    log_density = scipy.stats.norm.logpdf(x, loc=y).mean() + 0.5 * np.log(2 * np.pi)
    assert reconstruction(x, y).item() == pytest.approx(-log_density)
    assert on_sphere(x, y).square().mean(dim=1).tolist() == pytest.approx([1.0] * rows)


def test_gradients_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: on_sphere(v, y[0]), x)
    assert torch.autograd.gradcheck(lambda v: reconstruction(y, v), x)


# Initial values


@pytest.mark.parametrize("options", [{}, OFF, {"style_dim": 100}])
def test_starts_as_the_cosine_head_on_z(world: Any, options: dict[str, Any]) -> None:
    objective = make(world, away=0.0, **options)
    z = world.batch(WEAK).unlabelled[0].pooled
    assert torch.equal(objective.logits(z), CosineHead(world.centres, torch.zeros(8))(z))


def test_a_style_as_wide_as_z_starts_by_telling_all_of_it(world: Any) -> None:
    batch = world.batch(WEAK)

    def start(width: int) -> float:
        objective = make(world, away=0.0, style_dim=width)
        assert objective.style.weight.shape == (min(width, 8), 8)
        _, terms = objective(lambda features: features.pooled, batch, 1.0, torch.Generator())
        return float(terms["rec"])

    assert start(100) == pytest.approx(0, abs=1e-12)
    # Half of the coordinates are reconstructed; the other half have a mean square of about one.
    assert 0.1 < start(4) < 0.4


# Parameters moved by each term


def test_critics_move_by_their_own_loss_alone(world: Any) -> None:
    """The critics' gradients do not depend on the weights of the parts they compare."""
    some, _, _ = run(world, w_content=0.1, w_style=0.1)
    many, _, _ = run(world, w_content=5.0, w_style=7.0, w_rec=0.0)
    names = {"critics." + name for name, _ in some.critics.named_parameters()}
    assert len(some.critic_parameters()) == len(names) == 12
    for name in names:
        torch.testing.assert_close(gradients(some)[name], gradients(many)[name])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in some.critic_parameters())


def test_the_critics_own_loss_moves_nobody_else(world: Any) -> None:
    """At progress zero of a ramp only cross-entropy and the critics' losses are left."""
    objective, projector, terms = run(world, progress=0.0, ramp=0.5)
    plain, alone, _ = run(world, **OFF)
    assert {"critic_content", "critic_style"} <= set(terms)
    for name, gradient in gradients(projector).items():
        torch.testing.assert_close(gradient, gradients(alone)[name])
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(objective)[name], gradient)


TOUCHED = {
    "w_rec": {"head.weight", "head.log_scale", "style.weight", "from_content", "from_style"},
    "w_content": {"head.weight", "head.log_scale"},
    "w_style": {"style.weight"},
}


@pytest.mark.parametrize("weight", TOUCHED)
def test_a_weight_moves_its_part_and_the_projector_and_at_zero_nothing(world: Any, weight: str) -> None:
    nothing, still, off = run(world, **OFF)
    objective, projector, on = run(world, **OFF | {weight: 1.0})
    base = gradients(nothing)
    moved = {
        name
        for name, gradient in gradients(objective).items()
        if not name.startswith("critics.") and not torch.allclose(gradient, base[name], atol=1e-7)
    }
    assert moved
    assert all(any(name.startswith(part) for part in TOUCHED[weight]) for name in moved)
    assert all(any(name.startswith(part) for name in moved) for part in TOUCHED[weight])
    pairs = zip(gradients(projector).values(), gradients(still).values(), strict=True)
    assert any(not torch.allclose(one, two) for one, two in pairs)
    part = weight.removeprefix("w_")
    assert set(off) == {"ce_cond", "rec", "loss"}
    assert set(on) - set(off) == ({f"kl_{part}", f"critic_{part}"} if part != "rec" else set())
    assert off["loss"] == off["ce_cond"]
    assert all(not base[name].any() for name in base if not name.startswith("head."))


def test_unlabelled_samples_move_every_latent_term(world: Any) -> None:
    one, other = world.batch(WEAK, seed=0), world.batch(WEAK, seed=5)
    _, _, terms = run(world, one)
    _, _, others = run(world, one._replace(unlabelled=other.unlabelled))
    assert terms["ce_cond"] == others["ce_cond"]
    assert all(terms[name] != others[name] for name in TERMS - {"ce_cond"})


@pytest.mark.parametrize("views", [Views(("weak",), ()), WEAK])
def test_without_unlabelled_rows_the_labelled_are_all(world: Any, views: Views) -> None:
    batch = world.batch(views, unlabelled_rows=0)
    _, _, terms = run(world, batch)
    assert set(terms) == TERMS | {"loss"}
    objective, projector = make(world), world.projector()
    z, frozen = projector(batch.labelled[0]), batch.labelled[0].pooled
    parts = objective.head(z).softmax(1), objective.style(on_sphere(z, objective.head.center))
    decoded = objective.from_content(parts[0]) + objective.from_style(parts[1])
    torch.testing.assert_close(
        terms["rec"], reconstruction(on_sphere(frozen, objective.head.center), decoded).detach()
    )
    torch.testing.assert_close(terms["kl_style"], -objective.critics["style"](parts[1]).mean().detach())


def test_reads_unlabelled_views_only_where_there_are_some(world: Any) -> None:
    options = ContentStyleOptions()
    full, empty = (ContentStyle(options, world.task(n)) for n in (100, 0))
    assert full.views(["eval", "weak", "strong"]) == WEAK
    assert full.views(["eval"]) == Views(("eval",), ("eval",))
    assert empty.views(["eval", "weak"]) == Views(("weak",), ())


# Edges


@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize("unlabelled", [0, 1])
def test_finite_at_the_edges(make_world: Callable[..., Any], classes: int, unlabelled: int) -> None:
    """One sample of each kind, a class count from one to a thousand, a head sure of the wrong class."""
    world = make_world(classes)
    batch = world.batch(WEAK, rows=1, unlabelled_rows=unlabelled)
    batch = batch._replace(label=(batch.label + 1) % classes)
    objective, projector, terms = run(world, batch, away=0.0)
    assert torch.isfinite(torch.stack(list(terms.values()))).all()
    assert all(
        torch.isfinite(g).all() for module in (objective, projector) for g in gradients(module).values()
    )


def test_a_latent_at_the_centre_is_finite(world: Any) -> None:
    objective = make(world)
    batch = world.batch(WEAK)
    z = torch.zeros(1, 8, requires_grad=True)
    loss, _ = objective(lambda features: z.expand(len(features.pooled), 8), batch, 1.0, torch.Generator())
    loss.backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_draws_are_from_the_priors(world: Any) -> None:
    objective = make(world, prior=(1.0, 0.0, 3.0))
    generator = torch.Generator().manual_seed(0)
    labels = objective._sample_prior("content", torch.empty(20000, 3), generator)
    torch.testing.assert_close(labels.mean(0), torch.tensor([0.25, 0.0, 0.75]), atol=0.02, rtol=0)
    assert labels.sum(1).eq(1).all()
    styles = objective._sample_prior("style", torch.empty(20000, 4), generator)
    torch.testing.assert_close(styles.mean(0), torch.zeros(4), atol=0.03, rtol=0)
    torch.testing.assert_close(styles.T.cov(), torch.eye(4), atol=0.05, rtol=0)


def test_bad_options_are_refused(world: Any) -> None:
    with pytest.raises(TrainError, match="expected: 3 numbers"):
        make(world, prior=(0.5, 0.5))
    for name in ("w_content", "w_style", "w_rec", "style_dim", "critic_hidden"):
        with pytest.raises(ConfigError, match=name):
            ContentStyleOptions.parse({name: -1})


def test_training_lowers_cross_entropy_and_reconstruction(world: Any) -> None:
    objective, projector = make(world, away=0.0), world.projector()
    optimiser = torch.optim.Adam([*objective.parameters(), *projector.parameters()], lr=0.01)
    generator, history = torch.Generator().manual_seed(0), []
    for n in range(40):
        batch = world.batch(WEAK, rows=12, unlabelled_rows=24, seed=n % 4)
        loss, terms = objective(projector, batch, 1.0, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(terms)
    for name in ("ce_cond", "rec"):
        early, late = (torch.stack([t[name] for t in part]).mean() for part in (history[:4], history[-4:]))
        assert late < early, name
