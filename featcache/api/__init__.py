"""The objects that Python users hold: a cache and its splits, a run, predictions."""
