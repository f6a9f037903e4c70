"""The pipelines that come with featcache are well formed, and name what exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from featcache import plugins
from featcache.objectives.base import Objective, Probe
from featcache.stages import pipeline
from featcache.training.options import TrainOptions

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
