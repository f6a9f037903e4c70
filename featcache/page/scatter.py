"""A map of the samples: representations in two dimensions, near ones near each other."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.api.predictions import Predictions
from featcache.errors import ConfigError, option
from featcache.files import explained, write_atomic

NEIGHBOURS = 5_000
"""Most samples that t-SNE places; more are placed by their two principal components."""
IN_PAGE = 5_000
"""Most points in a page."""
COLUMNS = ("split", "id", "x", "y", "label", "prediction", "confidence")


def place(found: Predictions, seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Return places (N, 2) of z, NaN for rows that failed, and the method.

    t-SNE (van der Maaten and Hinton, JMLR 9, 2008) on directions of z, begun at the principal components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    there = found.predicted
    z = found.z[there].astype(np.float64)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    places = np.full((len(found), 2), np.nan)
    if len(z) < 3:
        places[there] = np.zeros((len(z), 2))
        return places, "too few samples"
    small = PCA(min(50, *z.shape), random_state=seed).fit_transform(z)
    if len(z) > NEIGHBOURS:
        places[there] = small[:, :2]
        return places, "two principal components"
    perplexity = min(30.0, (len(z) - 1) / 3)
    places[there] = TSNE(
        perplexity=perplexity, init=small[:, :2] / max(small[:, 0].std(), 1e-12) * 1e-4, random_state=seed
    ).fit_transform(small)
    return places, "t-SNE"


def table(found: Predictions, places: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Return the columns of map.parquet, as Embedding Atlas and others open it."""
    values = (found.split, found.id, places[:, 0], places[:, 1], found.truth, found.label, found.confidence)
    return dict(zip(COLUMNS, values, strict=True))


def write(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    """Write map.parquet atomically."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.table({n: pa.array(v, from_pandas=True) for n, v in columns.items()}), buffer)
    with explained(path):
        write_atomic(path, buffer.getvalue())


def refuse_foreign(path: Path) -> None:
    """Raise ConfigError if there is something else at `path` than an earlier map."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.exists():
        return
    try:
        found = tuple(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError):
        found = ()
    if found != COLUMNS:
        raise ConfigError(
            f"{path} exists and is not a map; it is left as it is",
            expected="an earlier map, or nothing",
            hint=f"choose another folder with {option('out')}",
        )


def points(found: Predictions, places: NDArray[np.float64], seed: int = 0) -> dict[str, Any]:
    """Return the points of the page, at most IN_PAGE: rounded places from 0 to 1, classes and ids."""
    rows = np.flatnonzero(found.predicted)
    if len(rows) > IN_PAGE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, IN_PAGE, replace=False))
    low, high = places[rows].min(0, initial=np.inf), places[rows].max(0, initial=-np.inf)
    unit = (places[rows] - low) / np.maximum(high - low, 1e-12)
    number = {name: index for index, name in enumerate(found.classes)}
    return {
        "classes": list(found.classes),
        "x": unit[:, 0].round(4).tolist(),
        "y": unit[:, 1].round(4).tolist(),
        "prediction": [number[name] for name in found.label[rows]],
        "truth": list(found.truth[rows]),
        "id": list(found.id[rows]),
        "confidence": found.confidence[rows].round(3).tolist(),
        "drawn": len(rows),
        "of": int(found.predicted.sum()),
    }
