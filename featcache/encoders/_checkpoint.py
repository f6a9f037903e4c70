"""Checkpoints as people have them: nested, prefixed, with another head, with several sets of weights."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcache.errors import EncoderError

State = Mapping[str, Tensor]
AVERAGED = {"ema", "teacher"}
"""Words in the name of a set of weights that is an average of another, and is the one to use."""
_DEPTH = 3


class Weights(NamedTuple):
    """The weights of a checkpoint that fit a model."""

    state: State
    left_out: str
    """What else the checkpoint holds, in words; empty if nothing."""

    def notes(self, file: str) -> tuple[str, ...]:
        """Return what to tell the user of a file."""
        return (f"weights in {file} that are left out: {self.left_out}",) if self.left_out else ()


def split_choice(path: str) -> tuple[str, str | None]:
    """Return the file in `FILE#SET`, and the name of the set of weights if there is one.

    >>> split_choice("dino.pth#student")
    ('dino.pth', 'student')
    """
    file, mark, chosen = path.rpartition("#")
    return (file, chosen) if mark and not Path(path).is_file() else (path, None)


def read(path: str) -> Any:
    """Return what a checkpoint holds, read as tensors and plain values; no code in it is run.

    Raise EncoderError where it holds anything else.
    """
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    # Arguments of the command line are plain values, too.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise EncoderError(
                "the checkpoint holds more than tensors and plain values, which could run code",
                got=f"{path}: {str(error).strip().splitlines()[0][:200]}",
                expected="a file of weights, or one that torch.load(..., weights_only=True) reads",
                hint="if you trust the file, save its weights alone: "
                "torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)",
            ) from None


def fitting(content: Any, chosen: str | None, forms: Iterable[State], model: str) -> Weights:
    """Return the weights in a checkpoint for the first of several forms of a model that they fit.

    `forms` are state dicts, of which one is to be filled: with a head, without one. Names may have a prefix.
    Raise EncoderError, with what is missing, if none of the sets of weights in the checkpoint fits.
    """
    sets = dict(_sets(content))
    if not sets:
        raise EncoderError(f"the checkpoint for {model} holds no weights", got=type(content).__name__)
    wanted: State = {}
    for wanted in forms:
        fits = {
            words: (name, prefix)
            for name, state in sets.items()
            for prefix in _prefixes(state, wanted)
            if not _unfit(state, prefix, wanted) and _is_asked(words := f"{name}.{prefix}".strip("."), chosen)
        }
        if fits:
            use = _one(list(fits), model)
            return _weights(sets, wanted, *fits[use])
    asked = {name: state for name, state in sets.items() if _is_asked(name, chosen)}
    if not asked:
        raise EncoderError(
            f"the checkpoint for {model} holds no such weights", got=chosen, expected=", ".join(sets)
        )
    raise _misfit(asked, wanted, model)


def _is_asked(name: str, chosen: str | None) -> bool:
    return chosen is None or f"{name}.".startswith(f"{chosen}.")


def _one(names: list[str], model: str) -> str:
    """Return the set of weights to use; raise EncoderError if that is for the user to say."""
    averaged = [name for name in names if AVERAGED.intersection(re.split("[._]", name.lower()))]
    if len(names) == 1 or len(averaged) == 1:
        return (averaged or names)[0]
    raise EncoderError(
        f"the checkpoint for {model} holds several sets of weights",
        got=", ".join(names),
        expected="the name of one",
        hint=f"say which: FILE#{names[-1]}",
    )


def _weights(sets: Mapping[str, State], wanted: State, name: str, prefix: str) -> Weights:
    """Return the weights of a set under a prefix, and say what else there is."""
    state = {key: sets[name][prefix + key].to(value.dtype) for key, value in wanted.items()}
    others = [other for other, state in sets.items() if other != name and _prefixes(state, wanted)]
    rest = [key for key in sets[name] if key.removeprefix(prefix) not in wanted or not key.startswith(prefix)]
    return Weights(state, "; ".join([*others, _named(rest)] if rest else others))


def _sets(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield every mapping of names to tensors in nested mappings, by the names that lead to it."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if own:
        yield name, own
    for key, value in content.items():
        if isinstance(key, str):
            yield from _sets(value, f"{name}.{key}" if name else key, depth + 1)


def _prefixes(state: State, wanted: State) -> list[str]:
    """Return what stands before the names of the model in a checkpoint, the most frequent first."""
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in wanted:
                found["".join(f"{part}." for part in parts[:at])] += 1
    return [prefix for prefix, _ in found.most_common(8)]


def _unfit(state: State, prefix: str, wanted: State) -> list[str]:
    """Return what a set of weights lacks of a model, or has in another shape."""
    found = []
    for key, value in wanted.items():
        given = state.get(prefix + key)
        if given is None:
            found.append(f"no {prefix}{key}")
        elif given.shape != value.shape:
            found.append(f"{prefix}{key} is {list(given.shape)}, not {list(value.shape)}")
    return found


def _misfit(sets: Mapping[str, State], wanted: State, model: str) -> EncoderError:
    """Say what the nearest set of weights lacks of a model."""
    name, lacks = min(
        (
            (name, _unfit(state, prefix, wanted))
            for name, state in sets.items()
            for prefix in _prefixes(state, wanted) or [""]
        ),
        key=lambda pair: len(pair[1]),
    )
    return EncoderError(
        f"cannot load {model}: the weights do not fit",
        got=f"in {name}: {_named(lacks, 3)}" if name else _named(lacks, 3),
        expected=f"{len(wanted)} arrays, such as {next(iter(wanted))}",
        hint="the weights must be of the same architecture",
    )


def _named(keys: list[str], most: int = 6) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {more:,} more" if more > 0 else "")
