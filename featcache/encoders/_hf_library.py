"""The library transformers: import it, keep it quiet, read its outputs."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from featcache.encoders._loading import quiet
from featcache.errors import MissingExtra

_OTHERS = (".*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx", "openvino", "coreml")
"""Files of other libraries, and hidden ones, which a copy leaves out."""


def import_transformers() -> Any:
    """Return the module transformers; raise MissingExtra if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise MissingExtra.of("transformers", "hf") from None


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """Switch off progress bars and warnings of transformers; restore its settings afterwards."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def hidden_state(out: Any, layer: int) -> Tensor:
    """Return the hidden state of a layer, counted from the end, of a model's output."""
    state: Tensor = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    return state


def copy_model(path: str, folder: Path) -> None:
    """Copy the files of a model, from its folder or from the files of the hub on this machine."""
    hub: Any = importlib.import_module("huggingface_hub")
    source = path if Path(path).is_dir() else hub.snapshot_download(path, local_files_only=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_OTHERS))
