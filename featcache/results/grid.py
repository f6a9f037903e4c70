"""Name the trainings of a grid, and their folders."""

from __future__ import annotations

from typing import NamedTuple

from featcache.plugins import portable_name


class GridCell(NamedTuple):
    """One training of a grid."""

    cache: str
    objective: str
    """The name of an objective or of a variant."""
    setting: str
    """The options that differ from the default ones, for example `w_ent=0.3`; empty for the default."""
    budget: str
    """`labels_per_class=4`, `num_labels=24` or `all_labels`."""
    seed: int

    @property
    def path(self) -> str:
        """The folder of the run, below that of the pipeline."""
        setting = [self.setting.replace("/", "_")] if self.setting else []
        return "/".join([self.cache, folder_of(self.objective), *setting, self.budget, f"seed={self.seed}"])


def folder_of(objective: str) -> str:
    """Return the name of the folder of an objective; that of `python:PATH` is the file's name.

    >>> folder_of("linear"), folder_of("python:lab/mine.py")
    ('linear', 'mine.py')
    """
    return portable_name(objective).removeprefix("python:")
