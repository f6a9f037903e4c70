"""Zero-shot classification by class-name embeddings: q(y|x) = softmax_y(cos(z*, text_y) / 0.07).

Source: CLIP (arXiv 2103.00020, section 3.1). No labels are used.
"""

from __future__ import annotations

from collections.abc import Callable

import pydantic
from torch import Tensor

from featcache.config import Config
from featcache.errors import TrainError
from featcache.nn.init import unit
from featcache.objectives.base import Probe, ProbeData


class ZeroShotOptions(Config):
    """Options of the zero-shot probe."""

    temperature: float = pydantic.Field(default=0.07, gt=0)
    """Divisor of the cosine."""


class ZeroShot(Probe[ZeroShotOptions]):
    """The class whose name has the nearest embedding."""

    Options = ZeroShotOptions

    def fit(self, data: ProbeData, seed: int) -> Callable[[Tensor], Tensor]:
        """Return the softmax of the cosines; raise TrainError if there are no class-name embeddings."""
        if data.class_text is None:
            raise TrainError(
                "zero_shot needs class-name embeddings",
                got="a cache without any",
                expected="an encoder with a text tower and a source that names its classes",
                hint="extract with an open_clip model, or choose the objective `knn` or `linear`",
            )
        text, temperature = unit(data.class_text.float()), self.options.temperature

        def predict(pooled: Tensor) -> Tensor:
            cosine = unit(pooled.float()) @ text.to(pooled.device).mT
            return (cosine / temperature).log_softmax(dim=1)

        return predict


objective = ZeroShot
