"""Understand a source: its classes with counts, its unlabelled samples, and what looks like a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import in_python, on_the_command_line, option
from featcache.extraction.levels import Level, deeper_level, is_generic
from featcache.labels.files import spelling_warnings
from featcache.shown import harmless
from featcache.sources._origin import Origin
from featcache.sources.base import UNLABELLED, Source

_SHOWN = 10
_MISSING = ("nan", "none", "null", "na", "n/a", "?", "-", "unknown", "todo", "tbd", "undefined")


@dataclass(frozen=True)
class SplitClasses:
    """The labels of one split."""

    rows: int
    unlabelled: int
    classes: Mapping[str, int]
    """Number of samples by class name, in the order of the classes; without those that have none."""

    @classmethod
    def of(cls, class_names: Sequence[str], labels: NDArray[np.int64]) -> SplitClasses:
        """Count (N,) labels, which are indices of `class_names` or -1."""
        labelled = labels[labels != UNLABELLED]
        counts = np.bincount(labelled, minlength=len(class_names)).tolist()
        classes = {name: n for name, n in zip(class_names, counts, strict=True) if n}
        return cls(len(labels), len(labels) - len(labelled), classes)

    def describe(self) -> str:
        """Describe rows, classes and unlabelled rows in one line.

        >>> SplitClasses.of(("cat", "dog"), np.array([0, 1, 1, -1])).describe()
        '4 rows, 2 classes (cat 1, dog 2), 1 unlabelled'
        >>> SplitClasses.of((), np.array([-1, -1])).describe()
        '2 rows, none labelled'
        """
        if not self.classes:
            return f"{_count(self.rows, 'row')}, none labelled"
        counts = [f"{name} {count}" for name, count in self.classes.items()]
        classes = f"{_count(len(counts), 'class', 'classes')} ({listed(counts)})"
        rest = f", {self.unlabelled} unlabelled" if self.unlabelled else ""
        return f"{_count(self.rows, 'row')}, {classes}{rest}"


@dataclass(frozen=True)
class Understood:
    """The classes of the splits that are extracted, known before any forward pass."""

    source: str
    labels_from: str
    """Where labels come from, in a few words."""
    splits: Mapping[str, SplitClasses]
    _warnings: tuple[str, ...] = field(default=(), repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what looks like a mistake."""
        return tuple(map(in_python, self._warnings))

    def warned(self, *texts: str) -> Understood:
        """Return the same with more warnings."""
        return replace(self, _warnings=(*self._warnings, *texts))

    def describe(self) -> str:
        """Describe the classes of each split, without the warnings."""
        return "\n".join(
            [f"{self.source}: {self.labels_from}"]
            + [f"  {name}: {split.describe()}" for name, split in self.splits.items()]
        )

    def warning_lines(self, *, command_line: bool = False) -> list[str]:
        """Return a line for each warning, with options as arguments or as flags."""
        write = on_the_command_line if command_line else in_python
        return [f"warning: {write(text)}" for text in self._warnings]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        splits = {
            name: {"rows": split.rows, "unlabelled": split.unlabelled, "classes": dict(split.classes)}
            for name, split in self.splits.items()
        }
        return {"labels_from": self.labels_from, "splits": splits, "warnings": list(self.warnings)}


def understand(source: str, whole: Mapping[str, Source], asked: Mapping[str, Source]) -> Understood:
    """Return what was understood of the splits `asked`, which are some of `whole`, or their first samples."""
    origin: Origin | None = getattr(next(iter(whole.values())), "origin", None)
    splits = {name: SplitClasses.of(part.class_names, part.labels) for name, part in asked.items()}
    every = {
        name: splits[name] if asked.get(name) is part else SplitClasses.of(part.class_names, part.labels)
        for name, part in whole.items()
    }
    warnings = [
        *(origin.notes if origin else ()),
        *_nothing_labelled(origin, every, whole),
        *_doubtful_level(origin, whole),
        *_foreign(every, whole, origin),
        *_names(every),
        *_left_out(every, splits),
    ]
    return Understood(source, _labels_from(origin, whole), splits, tuple(warnings))


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """List the first names, and say how many more there are.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(harmless(name, lines=False) for name in names[:shown]) + more


def _labels_from(origin: Origin | None, whole: Mapping[str, Source]) -> str:
    if origin is None:
        return "labels as the source gives them"
    said = origin.describe()
    if origin.kind not in ("folder", "pattern"):
        return said
    found = (
        (part.class_names[part.labels[row]], part.ids[row])
        for part in whole.values()
        for row in map(int, np.flatnonzero(part.labels != UNLABELLED)[:1])
    )
    name, key = next(found, (None, None))
    return f"{said}: {key} is of class `{name}`" if name else "no labels"


def _nothing_labelled(
    origin: Origin | None, every: Mapping[str, SplitClasses], whole: Mapping[str, Source]
) -> Iterator[str]:
    """Warn of a table or of arrays with nothing labelled, with what there is instead."""
    if origin is None or any(split.classes for split in every.values()):
        return
    if origin.kind == "column" and origin.name is not None:
        yield f"the column `{origin.name}` has no label in any row"
    elif origin.kind == "column" and origin.likely is not None:
        say = option("label_column", origin.likely)
        yield f"no column is taken for labels, of {listed(origin.known)}; is it `{origin.likely}`? pass {say}"
    elif origin.kind == "column" and (level := _level_of_list(whole)) is not None:
        say = option("label_from", level.pattern)
        yield f"nothing is labelled; are the folders {listed(level.names, 5)} classes? pass {say}"
    elif origin.kind == "array" and origin.name is None and origin.known:
        yield f"nothing is taken for labels, of {listed(origin.known)}; name it with {option('label_column')}"


def _level_of_list(whole: Mapping[str, Source]) -> Level | None:
    """Return the level of folders that may be the class of a list of files, if there is one."""
    paths = [key for part in whole.values() if part.modality == "image" for key in part.ids]
    tops = sorted({key.split("/")[0] for key in paths if "/" in key})
    if len(tops) > 1 and not any(map(is_generic, tops)):
        return Level(tuple(tops), "LABEL/**")
    return deeper_level(paths)


def _doubtful_level(origin: Origin | None, whole: Mapping[str, Source]) -> Iterator[str]:
    """Warn of classes that look like batches, dates or containers, or of a deeper level like classes."""
    if origin is None or origin.kind != "folder":
        return
    labelled = [
        key
        for part in whole.values()
        for key, label in zip(part.ids, part.labels, strict=True)
        if label != UNLABELLED
    ]
    tops = sorted({key.partition("/")[0] for key in labelled})
    generic, deeper = [name for name in tops if is_generic(name)], deeper_level(labelled)
    if not tops or (2 * len(generic) < len(tops) and deeper is None):
        return
    what = (
        f"the classes look like batches, dates or containers: {listed(generic)}"
        if 2 * len(generic) >= len(tops)
        else f"the classes are {listed(tops, 5)}, but a deeper level repeats under several of them"
    )
    choices = f"if they are no classes, {option('no_labels', True)} leaves them out"
    if deeper is not None:
        better = f"{option('label_from', deeper.pattern)} makes classes of {listed(deeper.names, 5)}"
        choices = f"{better}, and {option('no_labels', True)} leaves labels out"
    again = "The same command with another choice replaces the labels, without another forward pass"
    yield f"{what}; {choices}. {again}"


def _foreign(
    every: Mapping[str, SplitClasses], whole: Mapping[str, Source], origin: Origin | None
) -> Iterator[str]:
    """Warn of splits with classes that no training sample has."""
    train = every.get("train")
    if train is None or not train.classes:
        return
    for name, split in every.items():
        if foreign := [each for each in split.classes if each not in train.classes]:
            text = f"`{name}` has classes that `train` has not: {listed(foreign)}"
            if origin and origin.kind == "folder" and all(map(is_generic, foreign)):
                depths = {key.count("/") for key in whole["train"].ids if "/" in key}
                pattern = "LABEL" + "/*" * max(depths)
                hint = option("label_from", pattern if len(depths) == 1 else "LABEL/*/**")
                text += f"; if these are no classes, {hint} leaves the samples of `{name}` unlabelled"
            yield text


def _names(every: Mapping[str, SplitClasses]) -> Iterator[str]:
    """Warn of class names that differ in spelling only, or that look like no label."""
    names = sorted({name for split in every.values() for name in split.classes})
    yield from spelling_warnings(names)
    if missing := [name for name in names if name.casefold() in _MISSING]:
        yield f"a class is called {listed(missing)}; leave the label empty if that means unlabelled"
    if len(names) == 1:
        yield f"there is one class only: {names[0]}"


def _left_out(every: Mapping[str, SplitClasses], splits: Mapping[str, SplitClasses]) -> Iterator[str]:
    """Warn of classes that a limit leaves out."""
    for name, split in splits.items():
        if lost := [each for each in every[name].classes if each not in split.classes]:
            yield (
                f"{option('limit')} leaves classes of `{name}` out, as its first {split.rows:,} rows have "
                f"{len(split.classes)} of {len(every[name].classes)}: {listed(lost)} missing"
            )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
