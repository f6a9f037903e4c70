# %% [markdown]
"""
# Handwritten digits, from extraction to a confusion matrix

This notebook needs no network and no GPU, and takes about a minute. Open it in Jupyter with
jupytext, in an editor that knows `# %%` cells, or run it as a script: `python examples/digits.py`.
It writes `digits.zarr`, `runs/` and `confusion.png` to the current folder.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import ConfusionMatrixDisplay

import featcache as fc

# %% [markdown]
# ## Extract
#
# The frozen model runs once. `digits` comes with scikit-learn, and `glyph-clip` is a small model of
# printed characters that comes with featcache. It never saw handwriting. `weak` is one augmented view
# of each sample; digits must not be flipped.

# %%
cache = fc.extract(
    "digits",
    "open_clip:glyph-clip",
    "digits.zarr",
    tokens="grid:4x4",
    views="weak=1,flip=0,crop=0.85",
    limit=500,
    progress=False,
)
print(cache)
print(cache.classes)

# %% [markdown]
# A split has ids, labels and views. A label is the index of a class, and -1 is unlabelled.

# %%
train, test = cache["train"], cache["test"]
print(len(train), train.views, train.ids[:3], train.labels[:3])

# %% [markdown]
# ## Look at the features
#
# `batches` reads rows of any views as tensors. Here: how similar are the plain and the weak view of a
# sample?

# %%
similar = [
    torch.cosine_similarity(batch["eval"].pooled.float(), batch["weak"].pooled.float())
    for batch in train.batches(128, views=["eval", "weak"])
]
print(f"cosine of two views of one sample: {torch.cat(similar).mean():.3f}")

# %% [markdown]
# ## Train from the cache
#
# Two labels for each digit. `linear` fits the frozen embedding. `twinturbo` also learns from the
# unlabelled samples. Both see the same labelled samples, because they have the same seed. With
# `resume=True` this cell can be run again.

# %%
runs = {
    name: fc.train(
        cache,
        name,
        out=f"runs/{name}",
        labels_per_class=2,
        options={"optim.steps": 60},
        resume=True,
        progress=False,
    )
    for name in ("linear", "twinturbo")
}
for name, run in runs.items():
    print(f"{name}: {run.accuracy:.1%}")

# %% [markdown]
# ## Predict
#
# A run predicts any cache of the same model. Here are the most confident errors.

# %%
said = runs["twinturbo"].predict(test)
confidence = np.asarray(said.confidence)
wrong = np.flatnonzero(np.asarray(said.label) != np.asarray(said.truth))
for row in wrong[np.argsort(-confidence[wrong])][:5]:
    print(f"{said.id[row]}: {said.label[row]} with {confidence[row]:.0%}, is {said.truth[row]}")

# %% [markdown]
# ## The confusion matrix

# %%
figure, axes = plt.subplots(figsize=(6, 6))
ConfusionMatrixDisplay.from_predictions(
    list(said.truth), list(said.label), labels=list(cache.classes), ax=axes, colorbar=False
)
axes.set_title(f"twinturbo, 2 labels per class: {runs['twinturbo'].accuracy:.1%}")
axes.tick_params(axis="x", rotation=45)
figure.tight_layout()
figure.savefig("confusion.png")

# %% [markdown]
# ## Compare
#
# The table of all runs in a folder.

# %%
print(fc.compare("runs/*"))
