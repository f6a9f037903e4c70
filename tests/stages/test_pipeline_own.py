"""Pipelines over what is there: a cache, labels and an objective of one's own; and files that do not fit."""

import sys

import pytest

from featcache.api.cache import Cache
from featcache.api.run import Run
from featcache.errors import ConfigError, LabelError, TrainError
from featcache.stages.pipeline import run_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = """
from torch.nn import functional as F
from featcache.config import Config
from featcache.nn.heads import CosineHead
from featcache.objectives.base import Objective

class Options(Config):
    weight: float = 1.0

class Mine(Objective[Options]):
    Options = Options

    def __init__(self, options, task):
        super().__init__(options, task)
        self.head = CosineHead(task.class_init)

    def forward(self, project, batch, progress, generator):
        ce = F.cross_entropy(self.logits(project(batch.labelled[0])), batch.label)
        return self.options.weight * ce, {"ce": ce.detach()}

    def logits(self, z):
        return self.head(z)

objective = Mine
"""
OTHERS = """
[objective."python:mine.py"]
weight = 0.5

[variant.quick]
objective = "python:mine.py"
optim.steps = 2
options = { weight = 2.0, "log.every" = 3 }
"""


def _times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_cache_that_is_there_and_an_objective_of_ones_own(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"train": {"objectives": ["linear"], "num_labels": [], "seeds": [0]}}
    run_pipeline(write(), out="first", overrides=few, device="cpu", trust=True)
    cache = tmp_path / "first" / "caches" / "small.zarr"
    (tmp_path / "mine.py").write_text(OWN)
    text = (tmp_path / "small.toml").read_text()
    start, end = text.index("source ="), text.index("[train]")
    (tmp_path / "small.toml").write_text(
        f'{text[:start]}cache = "first/caches/small.zarr"\n{OTHERS}{text[end:]}'
    )
    before, few["train"]["objectives"] = _times(cache), ["python:mine.py", "quick"]
    study = run_pipeline("small.toml", out="second", overrides=few, device="cpu", trust=True)
    assert [row.objective for row in study.rows] == ["python:mine.py", "quick"]
    assert study.extraction is None
    assert _times(cache) == before
    assert [path.name for path in (tmp_path / "second" / "small").iterdir() if "py" in path.name] == [
        "mine.py"
    ]

    mine, quick = (
        Run.open(f"second/small/{name}/labels_per_class=1/seed=0", trust=True)
        for name in ("mine.py", "quick")
    )
    options = [run.config()["options"] for run in (mine, quick)]
    assert [(o["optim"]["steps"], o["objective"]["weight"]) for o in options] == [(4, 0.5), (2, 2.0)]
    assert [o["log"]["every"] for o in options] == [10, 3]
    (tmp_path / "mine.py").rename(tmp_path / "moved.py")
    for name in [name for name in sys.modules if name.startswith("featcache_own_")]:
        monkeypatch.delitem(sys.modules, name)
    said = mine.predict(Cache.open(cache)["test"])
    assert (said.label == said.truth).mean() == pytest.approx(mine.accuracy)
    (tmp_path / "moved.py").rename(tmp_path / "mine.py")
    (mine.path / "mine.py").write_text(OWN + "# changed")
    with pytest.raises(TrainError, match=r"mine\.py"):
        mine.predict(Cache.open(cache)["test"])

    lines = [
        f"{key},{split},{'feline' if label == 0 else 'other'}"
        for split, part in ((name, Cache.open(cache)[name]) for name in ("train", "test"))
        for key, label in zip(part.ids, part.labels, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["id,split,label", *lines]))
    few["train"]["objectives"], few["extract"] = ["knn"], {"small": {"labels": "labels.csv"}}
    run_pipeline(
        "small.toml", out="third", overrides=few | {"objective": {}, "variant": {}}, device="cpu", trust=True
    )
    relabelled = Run.open("third/small/knn/labels_per_class=1/seed=0")
    assert relabelled.predict(Cache.open(cache)["test"]).classes == ("feline", "other")
    few["extract"]["small"]["labels"] = ["labels.csv", "none.csv"]
    with pytest.raises(LabelError, match=r"none\.csv"):
        run_pipeline("small.toml", out="fourth", overrides=few, device="cpu", trust=True)
    assert not (tmp_path / "fourth").exists()


REFUSALS = [
    (("seeds = [0, 1]", 'conditions = ["tail"]'), r"condition `tail`[\s\S]*\[condition\.tail\]"),
    (("[train]", "[condition.a]\ndata.imbalance = 0.5\n[train]"), r"`data\.imbalance`[\s\S]*got: +0\.5"),
    (("[train]", "[variant.a]\nobjective = 'linaer'\n[train]"), r"called `linaer`[\s\S]*did you mean"),
    (("[train]", "[variant.a]\noptions = {}\n[train]"), r"`variant\.a\.objective` is missing"),
    (("[train]", "[variant.knn]\nobjective = 'linear'\n[train]"), r"`variant\.knn` has the name of an obj"),
    (
        ("[train]", "[variant.a]\nobjective = 'supervised'\noptions.smoothing = 1\n[train]"),
        r"unknown key `smoothing` in the options of `supervised`",
    ),
    (
        ("[train]", "[variant.a]\nobjective = 'supervised'\noptim.steps = 0\n[train]"),
        r"`optim\.steps`[\s\S]*got: +0\n",
    ),
    (
        ("[train]", "[variant.a]\nobjective = 'supervised'\ndata.imbalance = 2\n[train]"),
        r"`variant\.a`[\s\S]*got: +data\.imbalance\n[\s\S]*\[condition\.NAME\]",
    ),
    (
        ("[train]", "[variant.a]\nobjective = 'supervised'\noptions = { lr = 1 }\n[train]"),
        r"unknown key `lr` in the options of `supervised`\n.*`optim\.lr`",
    ),
    (
        ("[train]", "[variant.a]\nobjective = 'supervised'\noption.a = 1\n[train]"),
        r"unknown key `variant\.a\.option`\n.*`options`",
    ),
    (("num_workers", 'cache = "c.zarr"\nnum_workers'), r"`extract\.small`[\s\S]*got: +cache and .*source"),
    (("seeds = [0, 1]", "lr = 0.1"), r"unknown key `train\.lr`[\s\S]*`options\.optim\.lr`"),
    (("[options]", "optim.lr = 0.1\n[options]"), r"unknown key `train\.optim`[\s\S]*`options\.optim\.lr`"),
    (('["linear",', '["python:no.py",'), r"no such Python file[\s\S]*got: +no\.py"),
    (("num_workers", "num_worker"), r"unknown key `extract\.small\.num_worker` in .*\n.*mean `num_workers`"),
    (("[train]", "[trains]"), r"`train` is missing|unknown key `trains`"),
    (("model =", "# model ="), r"`extract\.small\.model` is missing[\s\S]*cache = "),
    (('shard_size = "4"', 'dtype = "int4"'), r"dtype`[\s\S]*got: +'int4'\n[\s\S]*'bfloat16'"),
    (('shard_size = "4"', "limit = 0"), r"limit[\s\S]*got: +0\n[\s\S]*greater than 0"),
    (("seeds = [0, 1]", "seeds = []"), r"`train\.seeds`[\s\S]*at least 1 item"),
    (("seeds = [0, 1]", "seeds = [-1]"), r"`train\.seeds\.0`[\s\S]*got: +-1\n"),
    (("[1]", "[0]"), r"`train\.labels_per_class\.0`[\s\S]*got: +0\n"),
    (("seeds = [0, 1]", 'caches = ["smal"]'), r"`smal` in `train.caches`\n +next: +did you mean `small`"),
    (('["linear",', '["linaer",'), r"no objective is called `linaer`[\s\S]*did you mean `linear`"),
    (("optim.steps", "optim.step"), r"unknown key `optim\.step`[\s\S]*did you mean `steps`"),
    (("optim.steps = 4", 'optim.steps = "many"'), r"`optim\.steps`[\s\S]*got: +'many'\n[\s\S]*valid integer"),
    (("label_smoothing", "smoothing"), r"unknown key `smoothing` in the options of `supervised`"),
    (
        ("[objective.supervised]", "[objective.supervisd]"),
        r"called `supervisd`[\s\S]*did you mean `supervised`",
    ),
    (("[extract.small]", '[extract."a/b"]'), r"a/b[\s\S]*match pattern"),
    (('"Cats and dogs."', "Cats"), r"small\.toml is not TOML[\s\S]*got: +[\s\S]*line 2"),
]


@pytest.mark.parametrize(("replace", "message"), REFUSALS)
def test_a_file_that_does_not_fit_is_said_before_any_work(write, tmp_path, replace, message):
    path = write(swap=replace)
    with pytest.raises(ConfigError, match=message):
        run_pipeline(path, out=tmp_path / "out", device="cpu", trust=True)
    assert not (tmp_path / "out").exists()
