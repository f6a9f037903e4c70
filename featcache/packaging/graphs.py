"""The graphs of a package: projector and head, and the frozen model, in ONNX and of `torch.export`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache.batch import Features
from featcache.errors import EncoderError, FeatcacheError, MissingExtra, Notice, TrainError
from featcache.extraction import tokens
from featcache.packaging.check import sample_of
from featcache.packaging.model import Model

GRAPHS = (
    *("projector.onnx", "projector.onnx.data", "projector.pt2"),
    *("encoder.onnx", "encoder.onnx.data", "encoder.pt2"),
)
"""The files that may be written; large weights of ONNX are beside their graph."""
AGREE = 1e-4
"""The largest difference between a graph and the package, as a share of the largest value."""


class Head(nn.Module):
    """Projector and head of a package: calibrated probabilities (B, C) and z (B, d) of float32 features."""

    names = ("probabilities", "z")
    """Of the outputs."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.learner, self.temperature = model.predictor.learner, model.predictor.temperature
        for name, part in getattr(getattr(self.learner, "state", None), "model", {}).items():
            self.add_module(name, part)

    def forward(
        self, pooled: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict from pooled embeddings (B, P), and tokens (B, T, D) with a mask (B, T) if they are read."""
        held = pooled.unsqueeze(1) if tokens is None else tokens
        z, log_probs = self.learner.apply(Features(held, mask, pooled))
        return (log_probs / self.temperature).softmax(1), z


class Frozen(nn.Module):
    """The frozen model of a package: tokens (B, T, D) and pooled embeddings (B, P) of prepared samples."""

    names = ("tokens", "pooled", "mask")

    def __init__(self, model: Model, inputs: Iterable[str]) -> None:
        super().__init__()
        self.encoder, self.package = model.encoder, model.package
        self.module = getattr(model.encoder, "module", None)

        def forward(**given: Tensor) -> tuple[Tensor, ...]:
            return self._encode(given)

        # Tracing takes the names of the inputs from here; programs with other keywords cannot be loaded.
        names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
        forward.__signature__ = Signature(names)  # type: ignore[attr-defined]
        self.forward = forward

    def _encode(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the frozen model; a model of texts also returns the mask (B, T)."""
        encoded = tokens.select(self.encoder.encode(inputs, (self.package.layer,)), self.package.tokens)
        mask = () if encoded.mask is None else (encoded.mask,)
        return encoded.tokens[self.package.layer], encoded.pooled, *mask


def write_graphs(model: Model, *, onnx: bool, torch_export: bool) -> list[str]:
    """Write the graphs that are asked for into the folder of a package; return the names of the files.

    Raises TrainError if the projector and head cannot be traced, or if a graph gives other numbers. The
    frozen model is left out, with a warning, if it cannot be traced.
    """
    formats = {**({".onnx": _to_onnx} if onnx else {}), **({".pt2": _to_pt2} if torch_export else {})}
    if not formats:
        return []
    if onnx:
        _require_onnx()
    prepared, written = _prepared(model), list[str]()
    parts: dict[str, tuple[Head | Frozen, dict[str, Tensor]]] = {
        "projector": (Head(model), _features(model, prepared)),
        "encoder": (Frozen(model, prepared), prepared),
    }
    for (name, (module, inputs)), (suffix, write) in product(parts.items(), formats.items()):
        path = model.path / f"{name}{suffix}"
        try:
            with _explained(name, model):
                write(module.eval(), inputs, path)
        except EncoderError as error:
            warnings.warn(f"{path.name} is left out: {error.what} ({error.got})", Notice, stacklevel=3)
            path.unlink(missing_ok=True)
        else:
            written.append(path.name)
    return written


def _prepared(model: Model) -> dict[str, Tensor]:
    """Return two different prepared samples, as the frozen model takes them."""
    both = [model.encoder.transform(sample_of(model.modality, number)) for number in range(2)]
    return {name: torch.stack([sample[name] for sample in both]) for name in both[0]}


def _features(model: Model, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features of the samples, as far as the projector or the head reads them."""
    with torch.inference_mode():
        by_token, pooled, *mask = Frozen(model, prepared)(**prepared)
    # Cloned, because what is made in inference mode cannot be traced.
    found = {"pooled": pooled, "tokens": by_token, **({"mask": mask[0]} if mask else {})}
    read = found if model.predictor.learner.reads_tokens else {"pooled": pooled}
    return {name: value.clone().float() if name != "mask" else value.clone() for name, value in read.items()}


def _to_pt2(module: Head | Frozen, inputs: dict[str, Tensor], path: Path) -> None:
    with torch.no_grad():
        traced = torch.export.export(module, (), inputs, dynamic_shapes=_any_number(inputs), strict=False)
    torch.export.save(traced, path)
    loaded = torch.export.load(path).module()
    _compare(module, inputs, path, lambda batch: loaded(**batch))


def _to_onnx(module: Head | Frozen, inputs: dict[str, Tensor], path: Path) -> None:
    import onnxruntime  # type: ignore[import-untyped]

    with torch.no_grad():
        outputs = module.names[: len(module(**inputs))]
        # The module itself: a program of `torch.export` with guards cannot be converted.
        program = torch.onnx.export(
            module,
            (),
            kwargs=inputs,
            input_names=[*inputs],
            output_names=outputs,
            dynamic_shapes=_any_number(inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(batch: Mapping[str, Tensor]) -> list[Tensor]:
        values = {name: value.numpy() for name, value in batch.items()}
        return [torch.from_numpy(value) for value in session.run(None, values)]

    _compare(module, inputs, path, run)


def _any_number(inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    """Say that inputs may be of any number of samples."""
    samples = torch.export.Dim("samples", min=1, max=2**20)
    return {name: {0: samples} for name in inputs}


def _compare(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    path: Path,
    run: Callable[[Mapping[str, Tensor]], Sequence[Tensor]],
) -> None:
    """Raise ValueError unless a graph gives the numbers of the module, for another number of samples."""
    batch = {name: torch.cat([value, value[:1]]) for name, value in inputs.items()}
    with torch.no_grad():
        expected, got = module(**batch), run(batch)
    for one, other in zip(got, expected, strict=True):
        apart = float(
            (one.double() - other.double()).abs().max() / other.double().abs().max().clamp_min(1e-12)
        )
        if not apart <= AGREE:
            raise ValueError(f"{path.name} gives other numbers: {apart:.2g} of the largest apart")


@contextmanager
def _explained(name: str, model: Model) -> Iterator[None]:
    """Raise any error of tracing as an EncoderError, or as a TrainError for the projector."""
    kind = TrainError if name == "projector" else EncoderError
    what = "the projector or head of the run" if name == "projector" else model.encoder.spec.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FeatcacheError:
        raise
    except Exception as error:  # of torch, of ONNX and of the traced module, of many types
        said = str(error).strip().partition("\n")[0]
        raise kind(f"{what} cannot be written as a graph", got=f"{type(error).__name__}: {said}") from error


def _require_onnx() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingExtra.of(name, "onnx") from None
