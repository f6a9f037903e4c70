"""Find the name or the value that somebody may have meant. It imports no other module of featcache."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_ALIASES = {
    "fp16": ("float16", "bfloat16"),
    "half": ("float16", "bfloat16"),
    "f16": ("float16", "bfloat16"),
    "bf16": ("bfloat16",),
    "fp32": ("float32",),
    "f32": ("float32",),
    "float": ("float32",),
    "single": ("float32",),
    "i8": ("int8",),
    "uint8": ("int8",),
    "gpu": ("cuda",),
    "memory": ("ram",),
    "disk": ("stream",),
}
"""Other names of values, each with the values that may be meant, the most likely one first."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name and a list of all; empty if none is known.

    >>> did_you_mean("twinturb", ["linear", "twinturbo"])
    'did you mean `twinturbo`? known: linear, twinturbo'
    """
    options = sorted(known)
    if not options:
        return ""
    near = difflib.get_close_matches(name, options, n=1)
    return (f"did you mean `{near[0]}`? " if near else "") + "known: " + ", ".join(options)


def nearest_value(value: object, choices: Sequence[object]) -> str | None:
    """Return the choice that a value stands for or looks like; None if there is none.

    >>> nearest_value("fp16", ["float16", "bfloat16"]), nearest_value("fp16", ["float32", "bfloat16"])
    ('float16', 'bfloat16')
    >>> nearest_value("strem", ["stream", "ram"]), nearest_value("x", ["stream"])
    ('stream', None)
    """
    words = [str(choice) for choice in choices]
    folded = str(value).strip().lower()
    meant = [alias for alias in _ALIASES.get(folded, ()) if alias in words]
    return next(iter(meant or difflib.get_close_matches(folded, words, n=1)), None)


def same_leaf(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three options that end like the dotted `name`.

    >>> known = ["optim.lr", "optim.steps", "log.every"]
    >>> same_leaf("lr", known), same_leaf("train.optim.lr", known), same_leaf("step", known)
    (['optim.lr'], ['optim.lr'], [])
    """
    every, parts = list(known), name.split(".")
    # The longest tail of the name that is the tail of an option: `train.optim.lr` means `optim.lr`.
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        if found := [option for option in every if f".{option}".endswith(f".{tail}")]:
            return found[:3]
    return []


def near_leaf(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three options whose last part looks like that of the dotted `name`.

    >>> near_leaf("step", ["optim.lr", "optim.steps"]), near_leaf("zzz", ["optim.lr"])
    (['optim.steps'], [])
    """
    every = list(known)
    leaves = sorted({option.rpartition(".")[2] for option in every})
    near = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.75)
    return [option for option in every if option.rpartition(".")[2] in near][:3]
