"""Measuring what a machine does with a cache, and explaining what limits it."""
