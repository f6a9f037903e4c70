"""Balanced margin softmax and decoupled label smoothing (FineSSL, arXiv 2405.11756): pure functions.

A class of which few unlabelled samples are predicted with confidence is learned little: its margin is large.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.objectives._consistency import class_counts


def learning_status(status: Tensor, num_classes: int) -> Tensor:
    """s_c = n_c / max_k n_k, with n_c the unlabelled samples whose latest confident prediction is c.

    From (N,) int64 classes, -1 for a sample that was never confident, to (C,) float32 in [0, 1]; all zeros
    where no sample was.

    >>> learning_status(torch.tensor([0, 0, -1, 2]), 3)
    tensor([1.0000, 0.0000, 0.5000])
    """
    counts = class_counts(status + 1, num_classes + 1)[1:]
    return counts / counts.max().clamp(min=1)


def class_margins(learned: Tensor, alpha: float) -> Tensor:
    """delta_c = alpha (max s - min s) (1 - s_c) / (1 + s_c), in nats, of a (C,) learning status s.

    (C,) from 0, for the class learned best or where all are learned alike, to alpha.

    >>> class_margins(torch.tensor([1.0, 0.0, 0.5]), alpha=6.0)
    tensor([0., 6., 2.])
    """
    return alpha * (learned.max() - learned.min()) * (1 - learned) / (1 + learned)


def margin_cross_entropy(logits: Tensor, label: Tensor, margins: Tensor) -> Tensor:
    """-log [exp(l_y) / (exp(l_y) + sum_{k != y} exp(l_k + delta_y))], (B,) in nats.

    Of (B, C) logits, (B,) int64 labels and (C,) margins. The logits come with their scale, as in the
    reference code: a margin of delta asks for a lead in cosine that is larger by delta / scale.

    >>> margin_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0.0, 3.0]).log1p()).exp()
    tensor([5.])
    """
    # Softmax does not see a constant: raising all others by delta is lowering one's own.
    own = F.one_hot(label, logits.shape[1])
    return F.cross_entropy(logits - margins[label].unsqueeze(1) * own, label, reduction="none")


def smoothed_cross_entropy(logits: Tensor, label: Tensor, eps: float) -> Tensor:
    """-(1 - eps) log q_y - eps/(C - 1) sum_{k != y} log q_k, (B,) in nats, with q the softmax of the logits.

    Of (B, C) logits and (B,) int64 labels. Not the smoothing of arXiv 1512.00567 (and of torch), where the
    label has a part of eps as well.

    >>> smoothed_cross_entropy(torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([0]), eps=0.5)
    tensor([1.1321])
    """
    log_q = torch.log_softmax(logits, dim=1)
    own = log_q.gather(1, label.unsqueeze(1)).squeeze(1)
    others = (log_q.sum(dim=1) - own) / max(logits.shape[1] - 1, 1)
    return -(1 - eps) * own - eps * others
