"""Explain why a file of a run cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from featcache.errors import TrainError, option


@contextmanager
def readable(what: object, expected: str | None = None, *, otherwise: str | None = None) -> Iterator[None]:
    """Turn the errors of reading a damaged file in safetensors into a TrainError about `what`.

    `otherwise` says what can be done beside training again.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        again = f"train again with another {option('out')}"
        raise TrainError(
            f"{what} cannot be used",
            got=str(error).partition("\n")[0],
            expected=expected,
            hint=again if otherwise is None else f"{otherwise}, or {again}",
        ) from error
