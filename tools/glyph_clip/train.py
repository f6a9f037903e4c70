"""Train the two towers together: pictures against the captions of every character (UniCL, arXiv 2204.03610).

With B pictures and one caption c for each of C characters, s(b, c) = scale * cos(image_b, text_c):

    loss = mean_b -log softmax_c s(b, y_b)  +  mean_c -log sum_{b: y_b = c} softmax_b s(b, c)

the second mean over the characters that the batch shows.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from featcache.files import write_atomic
from tools.glyph_clip import augment
from tools.glyph_clip.glyphs import NAMES, Atlas, captions

Tokenizer = Callable[[list[str]], Tensor]
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": augment.IMAGE,
        "patch_size": 4,
        "layers": 8,
        "width": 128,
        "head_width": 32,
    },
    "text_cfg": {"context_length": 48, "vocab_size": 514, "layers": 2, "width": 64, "heads": 2},
}
"""In open_clip's terms."""
MEAN = STD = (0.5, 0.5, 0.5)
_DIGIT_WEIGHT = 2.0
_MASKED_SHARE, _MASKED_STEPS = 0.5, 0.85
_EASY_STEPS, _FULL_STEPS = 0.05, 0.4
_SCALE_LIMIT = math.log(100)
_DIGITS = 10
_QUICK_LOOK = 1024


@dataclass(frozen=True)
class Settings:
    """How long and how fast; `rate` is the peak of the learning rate."""

    steps: int
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    seed: int = 0
    amp: bool = True
    checkpoint_every: int = 250


@torch.random.fork_rng()
def train(
    train_on: Atlas, held_out: Atlas, tokenizer: Tokenizer, settings: Settings, checkpoint: Path
) -> CLIP:
    """The trained model, on the CPU; goes on from `checkpoint` where there is one, and keeps it up to date.

    Every step has its own generators, seeded by (seed, step), so a run that was interrupted ends as one that
    was not.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    model = CLIP(**_masked(MODEL)).to(device)
    optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.rate, betas=(0.9, 0.98))
    if start := _resume(checkpoint, model, optimizer):
        tqdm.write(f"{checkpoint} has done {start} steps; delete it to begin anew")
    weights = torch.where(train_on.label < _DIGITS, _DIGIT_WEIGHT, 1.0)
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, desc="glyph-clip")
    accuracy = math.nan
    for step in bar:
        seed = settings.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for the patches that the vision tower drops
        rows = torch.multinomial(weights, settings.batch, generator=generator)
        strength = min(max(step / settings.steps - _EASY_STEPS, 0) / (_FULL_STEPS - _EASY_STEPS), 1.0)
        pictures = normalise(augment.pictures(train_on.ink[rows], generator, strength)).to(device)
        texts = tokenizer(captions(random.Random(seed))).to(device)
        loss = _step(model, optimizer, pictures, texts, train_on.label[rows].to(device), step, settings)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            accuracy = zero_shot(model, held_out, tokenizer, most=_QUICK_LOOK).characters
            _save(checkpoint, model, optimizer, step + 1)
        if step % 10 == 0 or step + 1 == settings.steps:
            bar.set_postfix(loss=f"{float(loss):.3f}", held_out_fonts=f"{accuracy:.1%}")
    return model.cpu().eval()


def normalise(pictures: Tensor) -> Tensor:
    """As the preprocessing in the model's configuration does it."""
    return (pictures - MEAN[0]) / STD[0]


class Accuracy(NamedTuple):
    """By text alone: digits among the ten digits; all characters, capital and small letters alike; all."""

    digits: float
    alike: float
    characters: float


@torch.no_grad()
def zero_shot(
    model: CLIP, held_out: Atlas, tokenizer: Tokenizer, strength: float = 1.0, most: int | None = None
) -> Accuracy:
    """On one picture of every shape (at most `most` of them, drawn), always the same ones.

    Capital and small letters of the same form (o, s, x, ...) cannot be told apart.
    """
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(len(held_out.label), generator=generator)[:most]
    device = model.logit_scale.device
    was_training = model.training
    model.eval()
    texts = tokenizer([f"a photo of a {names[0]}." for names in NAMES.values()])
    words = model.encode_text(texts.to(device), normalize=True)
    scores = []
    for part in torch.split(rows, 256):
        pictures = normalise(augment.pictures(held_out.ink[part], generator, strength))
        scores.append((model.encode_image(pictures.to(device), normalize=True) @ words.T).cpu())
    model.train(was_training)
    return _accuracy(torch.cat(scores), held_out.label[rows])


def _accuracy(score: Tensor, label: Tensor) -> Accuracy:
    characters = list(NAMES)
    capital = torch.tensor([characters.index(c.upper()) for c in characters])
    found, digit = score.argmax(1), label < _DIGITS
    right = (
        score[digit, :_DIGITS].argmax(1) == label[digit],
        capital[found] == capital[label],
        found == label,
    )
    return Accuracy(*(float(part.float().mean()) for part in right))


def contrast(image: Tensor, text: Tensor, label: Tensor, scale: Tensor) -> Tensor:
    """The loss of the module: `image` (B, P) and `text` (C, P) of unit length, `label` (B,) below C."""
    scores = scale * image @ text.T
    by_picture = F.cross_entropy(scores, label)
    own = F.one_hot(label, len(text)).bool()
    shown = own.any(0)
    log_share = scores.log_softmax(0).masked_fill(~own, -math.inf)
    return by_picture - log_share[:, shown].logsumexp(0).mean()


def _step(
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    pictures: Tensor,
    texts: Tensor,
    label: Tensor,
    step: int,
    settings: Settings,
) -> Tensor:
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * _schedule(step / settings.steps, settings.warmup)
    # Half of the patches at first, all of them at the end (FLIP, arXiv 2212.00794).
    model.visual.patch_dropout.prob = _MASKED_SHARE if step < _MASKED_STEPS * settings.steps else 0.0
    # On a CPU torch's flash attention runs backwards in bfloat16 at half the speed of plain products.
    plain = sdpa_kernel(SDPBackend.MATH) if pictures.device.type == "cpu" else nullcontext()
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=settings.amp), plain:
        image, text = model.encode_image(pictures), model.encode_text(texts)
    unit = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
    loss = contrast(*unit, label, model.logit_scale.exp())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, _SCALE_LIMIT)
    return loss.detach()


def _masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model with a layer that drops patches; it has no weights, and what is exported has none."""
    return {**config, "vision_cfg": config["vision_cfg"] | {"patch_dropout": _MASKED_SHARE}}


def _schedule(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))


def _groups(model: CLIP, weight_decay: float) -> list[dict[str, Any]]:
    matrices: Sequence[Tensor] = [p for p in model.parameters() if p.ndim >= 2]
    others: Sequence[Tensor] = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _save(path: Path, model: CLIP, optimizer: torch.optim.Optimizer, step: int) -> None:
    content = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())


def _resume(path: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])
