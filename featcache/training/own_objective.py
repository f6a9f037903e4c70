"""Keep a user's own objective, `python:path/to/mine.py`, with the runs that it trains.

A run copies the file. A checkpoint holds tensors only, so predicting needs the code too, as it was at the
training: the user's own file may have moved or changed by then. The run's configuration holds the name and
the digest of the file. So an edited file is another configuration, and a moved one is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcache.errors import TrainError, option
from featcache.files import explained, write_atomic
from featcache.plugins import file_digest, own_file, portable_name
from featcache.runs.run import RunFolder

DIGEST = "objective_file"
"""The key of a configuration that holds the start of the SHA-256 of a user's own file."""


def recorded(objective: str) -> dict[str, Any]:
    """Return what a configuration records of an objective: its name, and the digest of a user's own file."""
    path = own_file(objective)
    own = {} if path is None else {DIGEST: file_digest(path)[:16]}
    return {"objective": portable_name(objective), **own}


def keep(objective: str, run: RunFolder) -> None:
    """Copy the file of a user's own objective into the folder of a run; do nothing for any other."""
    if (path := own_file(objective)) is not None:
        with explained(copy := run.path / path.name):
            write_atomic(copy, path.read_bytes())


def kept(run: RunFolder, config: Mapping[str, Any]) -> str:
    """Return the name that loads the objective of a run: `python:RUN/mine.py` for a user's own file.

    Raises TrainError if the copy is missing or differs from the file that the run was trained with.
    """
    if DIGEST not in config:
        return str(config["objective"])
    path = copy_in(run.path, config)
    found = file_digest(path)[:16] if path.is_file() else "no such file"
    if found != config[DIGEST]:
        raise TrainError(
            f"{path} is not the objective that the run was trained with",
            got=found,
            expected=f"a copy of {config['objective']} with SHA-256 {config[DIGEST]}...",
            hint=f"restore the file, or train again with another {option('out')}",
        )
    return f"python:{path}"


def copy_in(folder: Path, config: Mapping[str, Any]) -> Path:
    """Return the path of the copy of a user's own file in the folder of a run."""
    own = own_file(str(config["objective"]))
    return folder / ("" if own is None else own.name)
