"""Every option of a training, typed; `--set optim.steps=500` reaches any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from featcache.config import Config
from featcache.nn.projector import ProjectorOptions


class OptimOptions(Config):
    """How the projector, heads and critics are optimised."""

    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Labelled samples a step (fewer where there are fewer labels)."""
    uratio: float = Field(default=3.0, gt=0)
    """Unlabelled samples a step, as a multiple of `batch_size` (mu), however few labelled ones there are."""
    lr: float = Field(default=1e-4, gt=0)
    """Of the projector."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Of the objective's heads, which start at a regression of labels and names, and may move fast."""
    critic_lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from zero; then it falls as a cosine."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of all weights, used for evaluation; 0 is off."""
    amp: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    """Compile the projector with torch.compile."""


class DataOptions(Config):
    """What is read from the cache, and from where."""

    train: str = "train"
    """The split to learn from."""
    test: str = "test"
    """The split to report on; its labels are looked at once, at the end."""
    layer: int | None = None
    """The layer whose tokens are used; by default the first the cache was extracted with."""
    residency: Literal["auto", "stream", "ram", "device"] = "auto"
    """Where rows are held: on the device, in RAM, or nowhere; `auto` is the first in which they fit."""
    imbalance: float = Field(default=1.0, ge=1)
    """Make the unlabelled set long-tailed: rows of its most frequent class for each one of its rarest."""
    unknown_classes: int = Field(default=0, ge=0)
    """Treat that many classes as unknown: their rows stay unlabelled, and they are no class of the task."""
    missing_classes: int = Field(default=0, ge=0)
    """Give that many classes no label; they stay classes of the task. All three are drawn by the seed."""
    replay: Path | None = None
    """A second cache of the same features, for objectives that replay samples of the encoder's own domain."""
    replay_ratio: float = Field(default=0.1, gt=0)
    """Samples of the second cache in a batch, as a multiple of the unlabelled ones."""
    replay_split: str = "train"
    """The split of the second cache to read; all its rows, without their labels."""
    replay_test: str = "test"
    """The split of the second cache on which is judged what was forgotten, where it has labels."""
    token_subset: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens that a training step sees, drawn anew for each; CLS stays, evaluation sees all."""


class LogOptions(Config):
    """How often a training writes."""

    every: int = Field(default=10, ge=1)
    """Steps between lines of metrics."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints."""


class TrainOptions(Config):
    """The options of one training; `objective` is parsed by the objective itself."""

    cv: Literal[0] | Annotated[int, Field(ge=2)] = 0
    """Folds of the labelled samples that are held out, one training more for each; at most as many as the
    smallest class has samples, none for one sample. 0 is off, but for probes, which take no time: 5."""
    objective: dict[str, Any] = Field(default_factory=dict)
    projector: ProjectorOptions = Field(default_factory=ProjectorOptions)
    optim: OptimOptions = Field(default_factory=OptimOptions)
    data: DataOptions = Field(default_factory=DataOptions)
    log: LogOptions = Field(default_factory=LogOptions)
