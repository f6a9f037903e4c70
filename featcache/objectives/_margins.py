"""Balanced margin softmax and decoupled label smoothing (FineSSL, arXiv 2405.11756): pure functions.

A class with few confident predictions on unlabelled samples gets a large margin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.objectives._consistency import class_counts


def learning_status(status: Tensor, num_classes: int) -> Tensor:
    """Return s_c = n_c / max_k n_k, with n_c the unlabelled samples whose latest confident prediction is c.

    `status` holds these classes, (N,) int64, with -1 for a sample that was never confident. The result is
    (C,) float32 in [0, 1], and all zeros if no sample was confident.

    >>> learning_status(torch.tensor([0, 0, -1, 2]), 3)
    tensor([1.0000, 0.0000, 0.5000])
    """
    counts = class_counts(status + 1, num_classes + 1)[1:]
    return counts / counts.max().clamp(min=1)


def class_margins(learned: Tensor, alpha: float) -> Tensor:
    """Return delta_c = alpha (max s - min s) (1 - s_c) / (1 + s_c), (C,) in nats, from the status s (C,).

    Margins go from 0 to alpha. The class learned best has 0; so have all classes if they are learned alike.

    >>> class_margins(torch.tensor([1.0, 0.0, 0.5]), alpha=6.0)
    tensor([0., 6., 2.])
    """
    return alpha * (learned.max() - learned.min()) * (1 - learned) / (1 + learned)


def margin_cross_entropy(logits: Tensor, label: Tensor, margins: Tensor) -> Tensor:
    """Return -log [exp(l_y) / (exp(l_y) + sum_{k != y} exp(l_k + delta_y))], (B,) in nats.

    Takes (B, C) logits, (B,) int64 labels and (C,) margins. The logits include the scale of the cosine, as in
    the reference code. A margin of delta therefore requires a lead in cosine larger by delta / scale.

    >>> margin_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0.0, 3.0]).log1p()).exp()
    tensor([5.])
    """
    # Softmax ignores a constant, so raising all other logits by delta equals lowering the own one by delta.
    own = F.one_hot(label, logits.shape[1])
    return F.cross_entropy(logits - margins[label].unsqueeze(1) * own, label, reduction="none")


def smoothed_cross_entropy(logits: Tensor, label: Tensor, eps: float) -> Tensor:
    """Return -(1 - eps) log q_y - eps/(C - 1) sum_{k != y} log q_k, (B,) in nats, with q the softmax.

    Takes (B, C) logits and (B,) int64 labels. This differs from arXiv 1512.00567 (and torch), where the label
    gets a part of eps too.

    >>> smoothed_cross_entropy(torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([0]), eps=0.5)
    tensor([1.1321])
    """
    log_q = torch.log_softmax(logits, dim=1)
    own = log_q.gather(1, label.unsqueeze(1)).squeeze(1)
    others = (log_q.sum(dim=1) - own) / max(logits.shape[1] - 1, 1)
    return -(1 - eps) * own - eps * others
