"""The order of layers, as data, checked against every import in the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import featcache
from featcache.cli import main

ROOT = Path(featcache.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("nearest", "vectors", "outside", "shown"),
    ("config", "files", "limits", "processes", "randomness", "progress", "seal", "signals"),
    ("plugins", "devices", "location", "locks", "replacing", "specs", "batch"),
    ("cluster", "sources.base", "cache.layout", "loading.plan", "checking.neighbours", "flags"),
    ("nn",),
    ("mi",),
    ("objectives", "cache", "sources"),
    ("labels",),
    ("encoders",),
    ("loading", "extraction", "runs"),
    ("training", "exchange"),
    ("api", "results", "bench", "checking", "active", "filing"),
    ("page",),
    ("packaging",),
    ("stages",),
    ("sklearn",),
    ("commands",),
    ("cli",),
)
"""A module imports from layers above its own, and from its own package; never from below or beside."""

PURE = {"zarr", "h5py", "pathlib", "os", "shutil", "PIL", "torchvision", "open_clip", "timm", "transformers"}
FOUNDATION_MODELS = {"open_clip", "timm", "transformers", "torchvision"}
FORBIDDEN: dict[str, set[str]] = {
    "nn": PURE | {"featcache.objectives"},
    "mi": PURE | {"featcache.plugins", "featcache.devices"},
    "objectives": PURE | {"featcache.cache"},
    "cache": {"torch", "PIL"},
    "loading.plan": {"torch", "zarr", "pathlib", "os"},
    "loading": FOUNDATION_MODELS | {"featcache.encoders", "featcache.objectives"},
    "training": FOUNDATION_MODELS | {"featcache.encoders", "featcache.sources", "featcache.extraction"},
    "extraction": {"featcache.objectives", "featcache.nn"},
    "encoders": {"zarr", "featcache.objectives", "featcache.nn", "featcache.cache"},
    "batch": {"featcache.objectives", "featcache.cache"},
    "specs": {"torch", "numpy"},
    "sources": {"torch", "zarr", "featcache.cache"},
    "stages.train": FOUNDATION_MODELS | {"featcache.encoders", "featcache.sources"},
    "stages.predict": FOUNDATION_MODELS | {"featcache.encoders", "featcache.sources"},
    "stages.extract": {"featcache.objectives", "featcache.nn", "featcache.training"},
}
"""What a part never sees, whatever the order says."""

MODULES = sorted(
    ".".join(("featcache", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


class Import(NamedTuple):
    """One name a module imports, wherever in the file: at the top, in a function, for type checking only."""

    line: int
    name: str


def source_of(module: str) -> Path:
    path = ROOT.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str) -> Iterator[Import]:
    tree = ast.parse(source_of(module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (Import(node.lineno, name if name in MODULES else str(node.module)) for name in full)


def layer_of(module: str) -> int:
    """The layer that names the module or the nearest package above it."""
    own = module.removeprefix("featcache.")
    while own:
        for number, layer in enumerate(LAYERS):
            if own in layer:
                return number
        own = own.rpartition(".")[0]
    raise AssertionError(f"{module} has no place in LAYERS")


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


OWN = [module for module in MODULES if module not in ("featcache", "featcache.__main__")]


@pytest.mark.parametrize("module", OWN)
def test_imports_go_one_way(module: str) -> None:
    package = module.split(".")[1]
    for line, name in imports(module):
        if name == "featcache":
            assert module == "featcache.cli", f"{module}:{line} imports the public names of featcache"
        elif inside(name, "featcache") and not inside(name, f"featcache.{package}"):
            assert layer_of(name) < layer_of(module), f"{module}:{line} imports {name}, which comes after it"


@pytest.mark.parametrize("module", OWN)
def test_a_package_imports_no_later_layer_of_its_own(module: str) -> None:
    for line, name in imports(module):
        if inside(name, "featcache") and name != "featcache":
            assert layer_of(name) <= layer_of(module), f"{module}:{line} imports {name}, which comes after it"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_never_sees_what_is_not_its_business(part: str) -> None:
    found = [module for module in OWN if inside(module, f"featcache.{part}")]
    assert found, f"there is no featcache.{part}"
    seen = [
        f"{module}:{line} imports {name}"
        for module in found
        for line, name in imports(module)
        if any(inside(name, never) for never in FORBIDDEN[part]) and not name.endswith(".base")
    ]
    assert not seen


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["--version"], ["--help"], *([name, "--help"] for name in sorted(main.commands))]
)
def test_the_front_door_is_light(arguments: list[str]) -> None:
    """`import featcache` and asking for help load none of the heavy libraries."""
    heavy = {"torch", "zarr", "numpy", "pydantic", "sklearn", "PIL", "matplotlib"}
    if {"copy", "extract", "import"} & set(arguments):
        heavy -= {"pydantic"}  # their flags are the fields of options
    call = f"featcache.cli.main({arguments!r}, standalone_mode=False)" if arguments else "featcache.__all__"
    found = run(
        f"import sys, featcache{'.cli' if arguments else ''}\n{call}\n"
        f"print('loaded', [name for name in {heavy!r} if name in sys.modules])"
    )
    assert found.endswith("loaded []\n"), found


def test_training_waits_for_no_scikit_learn() -> None:
    """Which takes as long to import as torch, and is imported where it is used."""
    seen = run(
        "import sys, featcache.stages.train\n"
        "print([name for name in ('sklearn', 'scipy') if name in sys.modules])"
    )
    assert seen == "[]\n"


def test_training_needs_no_foundation_model() -> None:
    run(
        "import sys\n"
        f"sys.modules |= dict.fromkeys({sorted(FOUNDATION_MODELS)!r})\n"
        "from featcache import plugins\n"
        "import featcache.stages.train\n"
        "[plugins.find('objectives', name) for name in plugins.names('objectives')]\n"
    )


def test_extraction_needs_no_objective() -> None:
    seen = run(
        "import sys, featcache.stages.extract\n"
        "print([name for name in sys.modules if name.startswith(('featcache.objectives', 'featcache.nn'))])"
    )
    assert seen == "[]\n"
