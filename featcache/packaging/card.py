"""The model card of a package: what it is, how good it is, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote

from featcache.api.run import Run
from featcache.packaging.package import Package
from featcache.page.render import percent
from featcache.page.run_page import accuracies
from featcache.shown import harmless

_MOST = 100
"""Most class names to list."""


def model_card(run: Run, package: Package, name: str, graphs: list[str]) -> str:
    """Return the model card in Markdown, with the header that the Hugging Face Hub reads.

    `name` is the name of the package's folder; `graphs` are its files in ONNX or of `torch.export`.
    """
    return "\n".join(_lines(run, package, name, graphs)) + "\n"


def _lines(run: Run, package: Package, name: str, graphs: list[str]) -> Iterator[str]:
    figures, names = run.figures, run.predictor("cpu").class_names
    kind = package.encoder.modality
    title = harmless(name, lines=False)
    tags = ("tags:", "- featcache", f"- {kind}-classification")
    yield from ("---", "library_name: featcache", *tags, "---", "")
    yield from (f"# {title}", "")
    yield f"Classifies {kind}s into {len(names)} classes: a frozen model, and what was trained on its"
    yield f"features from {figures['num_labels']} labels, with featcache."
    yield from ("", "## Use", "", "```python", "import featcache as fc", "")
    yield from (
        f"model = fc.load({json.dumps(title, ensure_ascii=False)})",
        f"predictions = model({_example(kind)})",
    )
    yield from ("print(predictions.label, predictions.confidence)", "```", "")
    yield from ("```bash", f"featcache predict {quote(title)} FOLDER --out predictions.csv", "```", "")
    yield from ("## What is in it", "")
    if package.inside:
        yield f"- Frozen model: `{_code(package.encoder.name)}`, in this folder."
    else:
        yield f"- Frozen model: `{_code(package.model)}`, which is loaded by this name."
    yield f"- Its {package.encoder.weights_text()}; layer {package.layer}, tokens `{package.tokens}`."
    yield f"- Objective: `{_code(run.objective)}`; temperature {figures.get('temperature', 1.0):.3f}."
    yield f"- Made with {', '.join(f'{each} {version}' for each, version in package.versions.items())}."
    yield from (f"- `{graph}`" for graph in graphs)
    yield from ("", "## How good it is", "")
    said = [f"- {percent(each['value'])} {each['said']}" for each in accuracies(run)]
    yield from said or ["Not known: the run had no test, and too few labels for an estimate."]
    yield from ("", "## Classes", "", *(f"    {harmless(each, lines=False)}" for each in names[:_MOST]))
    if len(names) > _MOST:
        yield f"    and {len(names) - _MOST} more"
    yield from ("", "## Licence and limits", "")
    yield "The licences of the frozen model and of the data hold. Add them here, and what the data lacks."


def _example(kind: str) -> str:
    return '["a text"]' if kind == "text" else '["photo.jpg"]'


def _code(text: str) -> str:
    return harmless(text, lines=False).replace("`", "'")
