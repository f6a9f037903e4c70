"""`featcache package`: a finished run with its frozen model as one folder that predicts raw samples."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from featcache import encoders
from featcache.api.run import Run
from featcache.cache.reader import CacheReader
from featcache.encoders.base import Encoder, FrozenEncoder
from featcache.errors import CacheError, ConfigError, EncoderError, option
from featcache.files import PARTIAL, explained, partial, write_atomic
from featcache.location import Location
from featcache.locks import FileLock
from featcache.packaging.card import model_card
from featcache.packaging.check import sample_of, save_check
from featcache.packaging.graphs import GRAPHS, write_graphs
from featcache.packaging.model import Model
from featcache.packaging.package import CARD, CHECK, DESCRIPTION, ENCODER, RUN, Package, versions_for
from featcache.plugins import code_in, require_trust
from featcache.runs.run import RunFolder, cache_of
from featcache.runs.saved import CHECKPOINT, CONFIG, HELD_OUT, LABELS, REFERENCE, TASK, read

Place = str | os.PathLike[str] | Location
_FILES = (CONFIG, LABELS, TASK, CHECKPOINT, REFERENCE, HELD_OUT)
"""What predictions need of a run, besides the result and the code of an own objective. Paths and names of
the machine are in other files."""


def package(
    run: Place,
    out: Place,
    *,
    weights: bool = False,
    onnx: bool = False,
    torch_export: bool = False,
    cache: Place | None = None,
    model: str | None = None,
    trust: bool = False,
) -> Model:
    """Write a finished run and its frozen model as a folder, and return it opened.

    The folder has the projector, the head, the classes and the temperature of the run, the name of the
    frozen model with its preprocessing, and a model card. `weights` copies the frozen model into it. `onnx`
    and `torch_export` add the projector and the head as graphs, and the frozen model where it can be traced;
    their numbers are compared with those of the package.

    `cache` is a cache with the features of the run, by default the one of its training. `model` names the
    frozen model, by default as that cache records it. The user's own code, which the run or the model may
    be, is not run without `trust`.

    Raises a FeatcacheError if `out` exists, if the frozen model is not the one of the run or not known, or if
    a graph cannot be made or gives other numbers. Nothing is written then.

    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from featcache.stages.extract import extract
    >>> from featcache.stages.train import train
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=60, tokens="cls")
    ...     run = train(cache, "linear", labels_per_class=1, out=f"{folder}/run")
    ...     made = package(run, f"{folder}/model")
    ...     made(np.zeros((8, 8, 3), np.uint8)).label[0] in made.classes
    True
    """
    place, finished = Location.of(out).path, Run.open(run, trust=trust)
    _require_free(place)
    held = _cache(finished, cache)
    predictor = finished.predictor("cpu")
    predictor.require_fitting(held)
    name = model or str(held.provenance.get("model", held.spec.encoder.name))
    require_trust(code_in([name] if model is None else []), held.path, trust)
    described = _described(held, predictor.learner.origin.features.layer, name)
    encoder = encoders.load(name)
    scratch, lock = partial(place), place.with_name(place.name + ".lock")
    with FileLock(lock, f"writing {place}", ConfigError), explained(scratch):
        _discard(scratch)
        try:
            scratch.mkdir(parents=True)
            made = _build(scratch, finished, described, encoder, weights=weights)
            graphs = write_graphs(made, onnx=onnx, torch_export=torch_export)
            write_atomic(scratch / CARD, model_card(finished, made.package, place.name, graphs).encode())
            if place.exists():
                place.rmdir()
            os.replace(scratch, place)
        finally:
            _discard(scratch)
    made.path = place
    return made


def _build(folder: Path, run: Run, described: Package, encoder: Encoder, *, weights: bool) -> Model:
    """Write all but the graphs and the card, and open what was written."""
    _copy_run(run, folder / RUN)
    if weights:
        described, encoder = _with_weights(described, encoder, folder)
    described.write(folder)
    copied = Run.open(folder / RUN, trust=run.trust)
    made = Model.of(folder, described, encoder, copied.predictor("cpu"))
    save_check(made(sample_of(made.modality)), folder / CHECK)
    return made


def load(
    place: Place,
    *,
    model: str | None = None,
    device: str = "auto",
    coverage: float | None = None,
    trust: bool = False,
) -> Model:
    """Open a package: a model that predicts raw samples, as `load("model")(images)`.

    Takes the arguments of `featcache.Model.open`, and raises its errors.
    """
    return Model.open(place, model=model, device=device, coverage=coverage, trust=trust)


def describe(made: Model) -> str:
    """Describe a package in a few lines."""
    names = sorted(path.name + "/" * path.is_dir() for path in made.path.iterdir())
    return f"{made.package.encoder.name}, {len(made.classes)} classes: {', '.join(names)}"


def _require_free(place: Path) -> None:
    """Raise ConfigError if there is something at the place; an empty folder is nothing."""
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ConfigError(
            f"{place} exists; it is left as it is",
            got="a folder with files" if place.is_dir() else "a file",
            expected="nothing, or an empty folder",
            hint=f"choose another {option('out')}",
        )


def _discard(scratch: Path) -> None:
    """Delete what a killed command has left; raise ConfigError for anything else."""
    if not scratch.exists():
        return
    own = {RUN, ENCODER, DESCRIPTION, CHECK, CARD, *GRAPHS}
    if not scratch.is_dir() or not {name.name.removesuffix(PARTIAL) for name in scratch.iterdir()} <= own:
        raise ConfigError(
            f"{scratch} is in the way, and is no unfinished package; it is left as it is",
            hint=f"move it, or choose another {option('out')}",
        )
    shutil.rmtree(scratch)


def _cache(run: RunFolder, given: Place | None) -> CacheReader:
    path = cache_of(run) if given is None else Location.of(given).path
    if path is None or (given is None and not path.exists()):
        raise CacheError(
            f"the cache of the run {run.path} is gone, which says how its features were made",
            got=path,
            hint=f"name a cache with the same features by {option('cache')}",
        )
    return CacheReader.open(path)


def _described(cache: CacheReader, layer: int, model: str) -> Package:
    """Describe how the features of a layer of a cache are made; raises EncoderError if it is not known."""
    spec, features = cache.spec, cache.features(layer)
    if spec.encoder.imported:
        raise EncoderError(
            "the run was trained on imported embeddings, and featcache does not know how they were made",
            got=spec.encoder.weights_text(),
            expected="features that `featcache extract` made with the frozen model",
        )
    shape = next(each for each in cache.shapes.layers if each.layer == layer)
    return Package(
        model=model,
        inside=False,
        encoder=features.encoder,
        layer=layer,
        tokens=spec.tokens,
        dtype=spec.dtype,
        amp=spec.amp,
        std=shape.std,
        versions=versions_for(model),
    )


def _copy_run(run: RunFolder, to: Path) -> None:
    """Copy what predictions need of a run; each file is checked, and recorded again."""
    to.mkdir()
    for path in [*(run.path / name for name in _FILES), *run.path.glob("*.py")]:
        if (data := read(path)) is not None:
            write_atomic(to / path.name, data)
    RunFolder(to).finish(run.result() or {})


def _with_weights(described: Package, encoder: Encoder, folder: Path) -> tuple[Package, Encoder]:
    """Write the frozen model into the folder, and load it from there."""
    family = described.model.partition(":")[0]
    if not isinstance(encoder, FrozenEncoder):
        raise EncoderError(
            f"the weights of {described.model} cannot be copied", got="an encoder of one's own"
        )
    try:
        name = encoder.save(folder / ENCODER)
    except SafetensorError as error:  # a full disk
        raise OSError(f"{error}") from error
    described = described.model_copy(update={"model": f"{family}:{name}", "inside": True})
    return described, encoders.load(described.name_in(folder))
