"""`featcache run`: extract and train as one typed file says; finished parts are skipped."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader, is_group
from featcache.cluster import ClusterOptions
from featcache.config import as_tree, did_you_mean, flatten, merge, option_names
from featcache.errors import ConfigError
from featcache.extraction.understood import Understood
from featcache.files import explained, write_atomic
from featcache.labels.files import read_given
from featcache.labels.table import read_labels
from featcache.location import Location
from featcache.outside import json_of, toml_of
from featcache.page import study_page
from featcache.plugins import code_in, require_trust
from featcache.progress import MakeProgress, bar, human_time, silent
from featcache.results.pipeline_file import ExtractTable, Pipeline
from featcache.results.study import Study, write_study
from featcache.stages.extract import run_extraction
from featcache.stages.report import write_page
from featcache.stages.trainings import run_all
from featcache.training.options import TrainOptions
from featcache.training.recipe import parse_options

Say = Callable[[str], None]


def load(
    name: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None, *, trust: bool = False
) -> Pipeline:
    """Load a TOML file, or the bundled pipeline of that name; raises ConfigError if it is not valid.

    An own objective that the file names is imported, which needs `trust`.
    """
    path = find(name)
    try:
        content = toml_of(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML", got=error) from None
    # Before the options are parsed, as the objective itself parses its own.
    require_trust(code_in({key: content[key] for key in content if key != "extract"}), path, trust)
    others = [f"options.{option}" for option in option_names(TrainOptions)]
    return Pipeline.parse(merge(content, overrides or {}), str(name), others)


def find(name: str | os.PathLike[str]) -> Path:
    """Find a pipeline file, given its path or the name of a bundled one."""
    if (path := Location.of(name).path).is_file():
        return path
    if (path := bundled() / f"{name}.toml").is_file():
        return path
    known = sorted(file.stem for file in bundled().glob("*.toml"))
    given = os.fspath(name)
    if given.endswith(".toml") or os.sep in given:
        raise ConfigError(
            "there is no such file",
            got=given,
            expected=f"a TOML file, or the name of a bundled pipeline: {', '.join(known)}",
        )
    raise ConfigError(
        "no such pipeline",
        got=name,
        hint=did_you_mean(str(name), known) + ", or give the path of a TOML file",
    )


def bundled() -> Path:
    """Return the folder of bundled pipelines: inside an installed package, beside it in a checkout."""
    inside = Path(str(resources.files("featcache"))) / "pipelines"
    return inside if inside.is_dir() else inside.parents[1] / "pipelines"


def run_pipeline(
    name: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | Location | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    trust: bool = False,
    say: Say = print,
    progress: bool = True,
) -> Study:
    """Extract and train everything in a pipeline file; write to `out` (by default `runs/NAME`).

    The results are `out`/results.md, .csv and .tex, plots of accuracy and reliability (.png, .svg), and
    report.html, a page of all of them. Finished trainings are skipped, and unfinished ones are resumed.
    Raises ConfigError if the file is not valid, before anything is computed.

    Code that the file names (`python:FILE`) is not run without `trust`; names in `overrides` are yours.
    """
    pipeline, show = load(name, as_tree(overrides), trust=trust), bar if progress else silent
    folder = Path("runs") / Path(name).stem if out is None else Location.of(out).path
    _introduce(pipeline, overrides, say)
    caches = {
        key: folder / "caches" / f"{key}.zarr" if table.cache is None else Location.of(table.cache).path
        for key, table in pipeline.extract.items()
    }
    caches_done = _require_trust(name, pipeline, caches, trust)
    _check_files(pipeline, caches)
    for key, table in pipeline.extract.items():
        if table.cache is not None:
            say(f"using {key}: {caches[key]}")
    extractions = [
        _seconds(caches[key].with_suffix(".json"))
        if key in caches_done
        else _extract(key, table, caches[key], say, device=device, cluster=pipeline.cluster, progress=show)
        for key, table in pipeline.extract.items()
        if table.cache is None
    ]
    labels = _own_labels(pipeline, caches, say)
    requests = list(pipeline.requests(caches, _with_text(caches, labels), labels))
    tests = {(r.cache, parse_options(r.objective, r.options or {}).data.test): r.labels for _, r in requests}
    for (cache, split), own in tests.items():
        _require_test(CacheReader.open(Location.of(cache).path), split, own)
    trained = run_all(requests, folder, pipeline.cluster, device, say)
    known = bool(extractions) and None not in extractions
    extraction = math.fsum(filter(None, extractions)) if known else None
    study = write_study(trained, extraction, folder, pipeline.train.against)
    page = folder / "report.html"
    write_page(page, study_page.summarise(study.rows))
    return replace(study, page=page)


def _introduce(pipeline: Pipeline, overrides: Mapping[str, Any] | None, say: Say) -> None:
    """Say what the file is about, and what of it is changed for this run."""
    if not pipeline.description:
        return
    say(pipeline.description.strip())
    if changed := flatten(as_tree(overrides)):
        said = ", ".join(f"{name} = {json.dumps(value)}" for name, value in changed.items())
        say(f"changed for this run: {said}")


def _require_trust(
    name: str | os.PathLike[str], pipeline: Pipeline, caches: Mapping[str, Path], trust: bool
) -> set[str]:
    """Return the caches that are used as they are; raise ConfigError if code of the file has to be run.

    A complete cache does not need the code of its model again.
    """
    code = [] if trust else code_in(toml_of(find(name).read_bytes()).get("extract"))
    done = {
        key
        for key, table in pipeline.extract.items()
        if table.model in code and _is_complete(caches[key], table)
    }
    models = {pipeline.extract[key].model for key in done}
    require_trust([one for one in code if one not in models], find(name), trust)
    return done


def _is_complete(path: Path, table: ExtractTable) -> bool:
    if not is_group(path) or table.model is None:
        return False
    cache = CacheReader.open(path)
    name = "python:" + table.model.removeprefix("python:").rpartition("/")[2]
    same = cache.spec.encoder.name == name and all(
        getattr(cache.spec, field) == getattr(table, field)
        for field in ("views", "tokens", "layers", "dtype", "amp")
    )
    return same and all(cache.split(split).complete() for split in cache.split_names)


def _require_test(cache: CacheReader, split: str, own: LabelTable | None) -> None:
    """Raise ConfigError if a cache has no labelled test split; `own` replaces its labels."""
    table = cache.labels if own is None else own
    if split in cache.split_names and (table.of(split, cache.split(split).rows) >= 0).any():
        return
    raise ConfigError(
        f"the cache {cache.path} has no labelled split `{split}`, and a study compares on one",
        hint="extract a test split with labels, or use `featcache train`, which estimates",
    )


def _check_files(pipeline: Pipeline, caches: Mapping[str, Path]) -> None:
    """Raise a FeatcacheError if a cache or a table of labels that should be there cannot be read."""
    for key, table in pipeline.extract.items():
        for file in table.labels:
            read_given(Location.of(file).path)
        if table.cache is not None:
            cache = CacheReader.open(caches[key])
            if table.labels:
                read_labels(table.labels, cache)


def _own_labels(pipeline: Pipeline, caches: Mapping[str, Path], say: Say) -> dict[str, LabelTable]:
    """Return the labels that are not the caches' own, by the name of the cache."""
    found = {}
    for key, table in pipeline.extract.items():
        if table.labels:
            own = read_labels(table.labels, CacheReader.open(caches[key]))
            found[key] = own.table
            for warning in own.warnings:
                say(f"warning: {key}: {warning}")
    return found


def _with_text(caches: Mapping[str, Path], labels: Mapping[str, LabelTable]) -> list[str]:
    """Return the names of the caches that hold embeddings of their class names."""
    found = []
    for key, path in caches.items():
        cache = CacheReader.open(path)
        names = labels[key].class_names if key in labels else cache.class_names
        if cache.text_of(names) is not None:
            found.append(key)
    return found


def _extract(
    name: str,
    table: ExtractTable,
    out: Path,
    say: Say,
    *,
    device: str,
    cluster: ClusterOptions,
    progress: MakeProgress,
) -> float | None:
    """Extract one cache; return the seconds that the whole extraction took, now or earlier.

    They are kept in a file beside the cache. Return None if the extraction was interrupted.
    """
    say(f"extracting {name}: {table.source} through {table.model}")
    assert table.source is not None
    assert table.model is not None
    start, kept = time.perf_counter(), out.with_suffix(".json")

    def tell(understood: Understood) -> None:
        for line in (understood.describe(), *understood.warning_lines(command_line=True)):
            say(line)

    how: dict[str, Any] = {"device": device, "cluster": cluster, "progress": progress}
    summaries = run_extraction(table.source, table.model, out, table, **how, tell=tell, say=say)
    for split, summary in summaries.items():
        say(
            f"  {split}: {summary.rows} rows, {summary.computed} views computed "
            f"in {human_time(summary.seconds)}"
        )
    computed = sum(summary.computed for summary in summaries.values())
    asked = sum(summary.rows for summary in summaries.values()) * len(table.views.names())
    with explained(kept):
        if computed == asked:
            write_atomic(kept, json.dumps({"seconds": time.perf_counter() - start}).encode())
        elif computed:
            kept.unlink(missing_ok=True)
        return _seconds(kept)


def _seconds(path: Path) -> float | None:
    """Read the seconds of an extraction; None if the file is missing or damaged."""
    try:
        return float(json_of(path.read_bytes())["seconds"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
