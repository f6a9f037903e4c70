"""The pipelines that come with featcache are well formed, and name what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from featcache import plugins
from featcache.config import merge, option_names
from featcache.objectives.base import Objective, Probe
from featcache.results.pipeline_file import ExtractTable, Pipeline, TrainTable, VariantTable
from featcache.stages import pipeline
from featcache.training.catalogue import all_objective_facts, training_options
from featcache.training.options import TrainOptions
from tools.pipeline_docs import filled

FILES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.toml"))


def test_the_bundled_pipelines_are_those_of_the_checkout() -> None:
    assert sorted(path.name for path in pipeline.bundled().glob("*.toml")) == [path.name for path in FILES]
    assert pipeline.load("quickstart") == pipeline.load(str(FILES[0].with_name("quickstart.toml")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_a_pipeline_can_be_read_to_the_last_option(path: Path) -> None:
    asked = pipeline.load(str(path))
    assert asked.description, "a pipeline says what it is for"
    options = TrainOptions.parse(asked.options)
    assert not options.objective, "options of an objective stand under [objective.NAME]"
    for name in {*asked.train.objectives, *asked.objective, *asked.variant}:
        kind = plugins.find("objectives", asked.objective_of(name)).objective
        assert issubclass(kind, (Objective, Probe))
        kind.Options.parse(asked.options_of(name).get("objective", {}))
    for table in asked.extract.values():
        assert table.model.partition(":")[0] in plugins.names("encoders")
    caches = {name: Path(name) for name in asked.extract}
    runs = [place for place, _ in asked.requests(caches)]
    assert runs
    assert len(set(runs)) == len(runs)


PAGE = (FILES[0].parents[1] / "docs" / "pipelines.md").read_text()


@pytest.mark.parametrize("table", [Pipeline, ExtractTable, TrainTable, VariantTable])
def test_the_page_names_every_key_of_a_pipeline_file(table: type) -> None:
    names = [name for name in option_names(table) if not (table is Pipeline and name.startswith("train."))]
    assert [name for name in names if f"\n- `{name}`: " not in PAGE] == []


def test_the_lists_of_keys_are_up_to_date() -> None:
    assert filled(PAGE) == PAGE, "run python tools/pipeline_docs.py"


def test_the_examples_of_the_page_are_accepted() -> None:
    """Each on top of the first one, which is a whole file."""
    whole, *more = (tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
    assert {key for table in (whole, *more) for key in table} == set(Pipeline.model_fields) - {"description"}
    for table in more:
        parsed = Pipeline.parse(merge(merge({}, whole), table))
        assert parsed != Pipeline.parse(whole)


def test_every_option_of_every_objective_is_explained() -> None:
    for facts in all_objective_facts():
        assert facts.summary
        assert facts.source
        assert [option.name for option in training_options(facts.name) if not option.meaning] == []
