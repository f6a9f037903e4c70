"""Every option of a training, typed; `--set optim.steps=500` reaches any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from featcache.config import Config
from featcache.nn.projector import ProjectorOptions


class OptimOptions(Config):
    """Options of the optimiser of projector, heads and critics."""

    steps: int = Field(default=200, ge=1, le=10**9)
    """Training steps."""
    batch_size: int = Field(default=32, ge=1, le=10**6)
    """Labelled samples in a step; fewer if there are fewer labels."""
    uratio: float = Field(default=3.0, gt=0, le=10_000)
    """Unlabelled samples in a step (mu), as a multiple of the option `batch_size`."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the projector."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the heads; higher than `lr`, because heads start from a fitted linear probe."""
    critic_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the critics."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which learning rates rise from zero; then they fall along a cosine."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of all weights, which is used for evaluation; 0: off."""
    amp: Literal["float32", "bfloat16"] = "float32"
    """The type that a step computes in; weights stay float32."""
    compile: bool = False
    """Compile the projector with torch.compile."""


class DataOptions(Config):
    """Options of the data that a training reads."""

    train: str = "train"
    """The split to train on."""
    test: str = "test"
    """The split to test on, if it has labels, which are used once, at the end; `none`: no split."""
    allow_leaks: bool = False
    """Train although a labelled training sample is also a labelled test sample."""
    layer: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    """The layer whose tokens are used; None: the first layer of the cache."""
    residency: Literal["auto", "stream", "ram", "device"] = "auto"
    """Where rows are held: streamed from disk, in RAM or on the device; `auto`: the fastest that fits."""
    verify: Literal["background", "off"] = "background"
    """Compare every shard that is read with its checksum, beside the training, or not."""
    imbalance: float = Field(default=1.0, ge=1, le=10**9)
    """Makes the unlabelled set long-tailed: ratio of its most frequent to its rarest class."""
    unknown_classes: int = Field(default=0, ge=0, le=10**6)
    """Number of classes, drawn by the seed, that are no part of the task; their rows stay unlabelled."""
    missing_classes: int = Field(default=0, ge=0, le=10**6)
    """Number of classes of the task, drawn by the seed, that get no label."""
    replay: Path | None = None
    """The replay cache: samples of the encoder's own domain, with the same features."""
    replay_ratio: float = Field(default=0.1, gt=0, le=10_000)
    """Samples of the replay cache in a batch, as a multiple of the unlabelled ones."""
    replay_split: str = "train"
    """The split of the replay cache to train on; all its rows are used, without labels."""
    replay_test: str = "test"
    """The split of the replay cache that shows what the training forgot; used if it has labels."""
    token_subset: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens in a training step, drawn for each step; CLS is kept, evaluation uses all."""


class LogOptions(Config):
    """Options of metrics and checkpoints."""

    every: int = Field(default=10, ge=1, le=10**9)
    """Steps between lines of metrics."""
    checkpoint_every: int = Field(default=100, ge=1, le=10**9)
    """Steps between checkpoints."""


class TrainOptions(Config):
    """The options of one training; `objective` is parsed by the objective itself."""

    cv: Literal[0, "off"] | Annotated[int, Field(ge=2, le=1000)] = 0
    """Folds of cross-validation over the labelled samples; each is one more training. 0: as many as an
    estimate needs, without a labelled test split or without a budget; else 5 for probes, none for others."""
    objective: dict[str, Any] = Field(default_factory=dict)
    projector: ProjectorOptions = Field(default_factory=ProjectorOptions)
    optim: OptimOptions = Field(default_factory=OptimOptions)
    data: DataOptions = Field(default_factory=DataOptions)
    log: LogOptions = Field(default_factory=LogOptions)
