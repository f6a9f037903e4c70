"""The folder of a package, and its description: everything to make the features of a run from raw samples.

- `package.json`: the description, sealed.
- `README.md`: the model card.
- `run/`: the files of the run that predictions need.
- `encoder/`: the frozen model's weights, if they were asked for.
- `check.safetensors`: the numbers of one sample, which are compared when the package is opened.
- `projector.onnx`, `projector.pt2`, `encoder.onnx`, `encoder.pt2`: graphs, if they were asked for.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from featcache.config import Config
from featcache.errors import ConfigError
from featcache.runs.run import version_of
from featcache.runs.saved import read_json, write_json
from featcache.specs import EncoderSpec, StoredType, TokenChoice, ValueType

DESCRIPTION, CARD, RUN, ENCODER, CHECK = "package.json", "README.md", "run", "encoder", "check.safetensors"
FORMAT = 1
_PACKAGES = ("featcache", "torch", "torchvision", "numpy", "pillow", "scikit-learn")
_OF_FAMILY = {"open_clip": "open_clip_torch", "timm": "timm", "hf": "transformers"}


class Package(Config):
    """The description of a package."""

    format: Literal[1] = 1
    model: str
    """The frozen model as the encoders know it, `FAMILY:NAME`."""
    inside: bool
    """True if NAME is a folder of the package."""
    encoder: EncoderSpec
    """The identity that the frozen model must have."""
    layer: int
    tokens: TokenChoice
    dtype: StoredType
    """The type that features are rounded to, as in the cache of the run."""
    amp: ValueType
    std: tuple[float, ...] = ()
    """(D,) divisors of int8 tokens."""
    versions: dict[str, str]
    """Versions of Python and of the packages that the numbers depend on, where the package was made."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description; raises ConfigError if there is none or of another version, and DamagedRun."""
        path = folder / DESCRIPTION
        if (content := read_json(path)) is None:
            raise ConfigError(
                f"no package at {folder}",
                got=f"no {DESCRIPTION}" if folder.exists() else "no such folder",
                hint="make one with `featcache package RUN --out PACKAGE`",
            )
        if (version := content.get("format")) != FORMAT:
            raise ConfigError(
                f"{folder} is a package of another version",
                got=f"format {json.dumps(version)}",
                expected=f"format {FORMAT}",
                hint="update featcache, or make the package again from its run",
            )
        package = cls.parse(content, str(path))
        if package.inside and not re.fullmatch(rf"\w+:{ENCODER}(@[1-9]\d*)?", package.model):
            raise ConfigError(
                f"{path} names a model outside of its folder", got=package.model, expected=f"FAMILY:{ENCODER}"
            )
        return package

    def write(self, folder: Path) -> None:
        """Write the description into the folder of a package."""
        write_json(folder / DESCRIPTION, self.model_dump(mode="json"))

    def name_in(self, folder: Path) -> str:
        """Return the name to load the frozen model by, for a package in `folder`."""
        family, _, name = self.model.partition(":")
        return f"{family}:{folder / name}" if self.inside else self.model

    def differing(self) -> Iterator[str]:
        """Yield what is installed here in another version than where the package was made.

        >>> made = Package.model_construct(model="hf:a", versions=versions_for("hf:a") | {"torch": "1.0"})
        >>> [line.partition(",")[0] for line in made.differing()]
        ['torch 1.0 there']
        """
        here = versions_for(self.model)
        for name, version in self.versions.items():
            if here.get(name) != version:
                yield f"{name} {version} there, {here.get(name, 'not installed')} here"


def is_package(folder: Path) -> bool:
    """Return True if a folder holds a package."""
    return (folder / DESCRIPTION).is_file()


def run_in(folder: Path) -> Path:
    """Return the folder of the run, for a package or for a run itself."""
    return folder / RUN if is_package(folder) else folder


def versions_for(model: str) -> dict[str, str]:
    """Return the versions that the numbers of a model depend on, by the name of the package."""
    found, library = {"python": platform.python_version()}, _OF_FAMILY.get(model.partition(":")[0])
    for name in (*_PACKAGES, *([library] if library else [])):
        if (version := version_of(name)) is not None:
            found[name] = version
    return found
