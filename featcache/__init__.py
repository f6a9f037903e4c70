"""featcache: run a frozen foundation model once, keep its token embeddings, adapt from the cache."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.active.table import Suggestions
    from featcache.api.cache import Cache, Split
    from featcache.api.predictions import Predictions
    from featcache.api.run import Run
    from featcache.checking.findings import Findings
    from featcache.encoders import load as load_encoder
    from featcache.errors import FeatcacheError
    from featcache.extraction.options import ExtractOptions
    from featcache.packaging.model import Model
    from featcache.results.compare import Comparison, compare
    from featcache.results.study import Study
    from featcache.sources import open_source
    from featcache.specs import ViewSpec
    from featcache.stages.bench import bench as benchmark
    from featcache.stages.check import check
    from featcache.stages.copy import copy, merge
    from featcache.stages.export import export
    from featcache.stages.extract import dry_run, extract
    from featcache.stages.import_ import import_embeddings
    from featcache.stages.info import info
    from featcache.stages.label import label
    from featcache.stages.objectives import list_objectives
    from featcache.stages.options import list_options
    from featcache.stages.package import load, package
    from featcache.stages.pipeline import run_pipeline
    from featcache.stages.predict import predict
    from featcache.stages.repair import repair
    from featcache.stages.report import Report, report
    from featcache.stages.suggest import suggest
    from featcache.stages.train import train
    from featcache.stages.verify import verify
    from featcache.training.options import TrainOptions

__version__ = "0.1.0"
_HOMES = {
    "Cache": "featcache.api.cache:Cache",
    "Comparison": "featcache.results.compare:Comparison",
    "ExtractOptions": "featcache.extraction.options:ExtractOptions",
    "FeatcacheError": "featcache.errors:FeatcacheError",
    "Findings": "featcache.checking.findings:Findings",
    "Model": "featcache.packaging.model:Model",
    "Predictions": "featcache.api.predictions:Predictions",
    "Report": "featcache.stages.report:Report",
    "Run": "featcache.api.run:Run",
    "Split": "featcache.api.cache:Split",
    "Study": "featcache.results.study:Study",
    "Suggestions": "featcache.active.table:Suggestions",
    "TrainOptions": "featcache.training.options:TrainOptions",
    "ViewSpec": "featcache.specs:ViewSpec",
    "benchmark": "featcache.stages.bench:bench",
    "check": "featcache.stages.check:check",
    "compare": "featcache.results.compare:compare",
    "copy": "featcache.stages.copy:copy",
    "dry_run": "featcache.stages.extract:dry_run",
    "export": "featcache.stages.export:export",
    "extract": "featcache.stages.extract:extract",
    "import_embeddings": "featcache.stages.import_:import_embeddings",
    "info": "featcache.stages.info:info",
    "label": "featcache.stages.label:label",
    "list_objectives": "featcache.stages.objectives:list_objectives",
    "list_options": "featcache.stages.options:list_options",
    "load": "featcache.stages.package:load",
    "load_encoder": "featcache.encoders:load",
    "merge": "featcache.stages.copy:merge",
    "open_source": "featcache.sources:open_source",
    "package": "featcache.stages.package:package",
    "predict": "featcache.stages.predict:predict",
    "repair": "featcache.stages.repair:repair",
    "report": "featcache.stages.report:report",
    "run_pipeline": "featcache.stages.pipeline:run_pipeline",
    "suggest": "featcache.stages.suggest:suggest",
    "train": "featcache.stages.train:train",
    "verify": "featcache.stages.verify:verify",
}
__all__ = [
    "Cache",
    "Comparison",
    "ExtractOptions",
    "FeatcacheError",
    "Findings",
    "Model",
    "Predictions",
    "Report",
    "Run",
    "Split",
    "Study",
    "Suggestions",
    "TrainOptions",
    "ViewSpec",
    "benchmark",
    "check",
    "compare",
    "copy",
    "dry_run",
    "export",
    "extract",
    "import_embeddings",
    "info",
    "label",
    "list_objectives",
    "list_options",
    "load",
    "load_encoder",
    "merge",
    "open_source",
    "package",
    "predict",
    "repair",
    "report",
    "run_pipeline",
    "suggest",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import featcache` and `featcache --help` cost no torch import.
    if name not in _HOMES:
        raise AttributeError(f"module `featcache` has no attribute `{name}`")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
