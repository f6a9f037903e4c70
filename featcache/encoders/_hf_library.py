"""The library transformers: import it, keep it quiet, read its outputs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from featcache.encoders._loading import quiet
from featcache.errors import MissingExtra


def import_transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise MissingExtra.of("transformers", "hf") from None


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """No progress bars and no advice from transformers while it loads; its settings are put back."""
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
    state: Tensor = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    return state
