"""Initialise a cosine head by a logistic regression of the labelled samples, on frozen embeddings.

    min_W  -sum log softmax_y(W x / 0.07) + |W|^2 / (2 C),    x = centred(z*),    C = 0.1    (nats)

The head starts with the directions of W. Starting from a linear probe distorts the features less than
starting from class means or at random (LP-FT, Kumar et al., arXiv 2202.10054). The regression has the scale
of the head (CLIP's) and no bias. C was chosen on held-out training rows (docs/results.md). It is fixed,
because with one label per class there are no rows to choose it on.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.nn.heads import SCALE
from featcache.nn.init import centred, unit
from featcache.objectives._fitting import logistic

C = 0.1


def center_of(pooled: Tensor) -> Tensor:
    """Return the (d,) float32 mean of (N, d) embeddings scaled to unit length."""
    return unit(pooled.float()).mean(dim=0)


def class_directions(
    pooled: Tensor, label: Tensor, center: Tensor, num_classes: int, text: Tensor | None = None
) -> Tensor:
    """Return (C, d) float32 directions on the CPU, from (n, d) embeddings and their (n,) labels.

    A row of `text` (C, d), the embedding of a class name, counts as one more sample of its class. Names are
    centred by their own mean, and samples by `center`. A class without labels and name gets zeros.

    >>> directions = class_directions(torch.eye(2), torch.tensor([2, 0]), torch.zeros(2), 3)
    >>> unit(directions).round(decimals=2)
    tensor([[-0.7100,  0.7100],
            [ 0.0000,  0.0000],
            [ 0.7100, -0.7100]])
    """
    x, y = centred(pooled.float(), center), label.cpu().numpy()
    if text is not None:
        alone = torch.zeros_like(text[0]) if len(text) == 1 else unit(text).mean(dim=0)
        x, y = torch.cat([x, centred(text, alone).to(x)]), np.append(y, np.arange(num_classes))
    found, known = torch.zeros(num_classes, x.shape[1]), np.unique(y)
    if len(known) == 1:
        found[known] = x.mean(dim=0).float().cpu()
    elif len(known):
        found[known] = _regression(x, y).float()
    return found


def _regression(x: Tensor, label: NDArray[np.int64]) -> Tensor:
    from sklearn.linear_model import LogisticRegression

    # For two classes scikit-learn fits only the difference of their rows, with twice the squared norm.
    strength = 2 * C if len(np.unique(label)) == 2 else C
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
    return torch.from_numpy(logistic(model, SCALE * x.double().cpu().numpy(), label)[0])
