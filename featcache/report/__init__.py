"""Comparing many runs: statistics, tables, plots and studies."""
