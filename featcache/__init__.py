"""featcache: run a frozen foundation model once, keep its token embeddings, adapt from the cache."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.cache.reader import CacheReader as Cache
    from featcache.encoders import load as load_encoder
    from featcache.errors import FeatcacheError
    from featcache.extraction.options import ExtractOptions
    from featcache.sources import open_source
    from featcache.specs import ViewSpec
    from featcache.stages.extract import extract
    from featcache.stages.pipeline import run_pipeline
    from featcache.stages.predict import predict
    from featcache.stages.train import TrainRequest
    from featcache.stages.train import run_training as train

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "ExtractOptions",
    "FeatcacheError",
    "TrainRequest",
    "ViewSpec",
    "extract",
    "load_encoder",
    "open_source",
    "predict",
    "run_pipeline",
    "train",
]

_HOMES = {
    "Cache": "featcache.cache.reader:CacheReader",
    "ExtractOptions": "featcache.extraction.options:ExtractOptions",
    "FeatcacheError": "featcache.errors:FeatcacheError",
    "TrainRequest": "featcache.stages.train:TrainRequest",
    "ViewSpec": "featcache.cache.spec:ViewSpec",
    "extract": "featcache.stages.extract:extract",
    "load_encoder": "featcache.encoders:load",
    "open_source": "featcache.sources:open_source",
    "predict": "featcache.stages.predict:predict",
    "run_pipeline": "featcache.stages.pipeline:run_pipeline",
    "train": "featcache.stages.train:run_training",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import featcache` and `featcache --help` cost no torch import.
    if name not in _HOMES:
        raise AttributeError(f"module `featcache` has no attribute `{name}`")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
