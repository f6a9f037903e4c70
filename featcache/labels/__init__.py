"""A user's own labels: read from tables, matched to the samples of a cache."""
