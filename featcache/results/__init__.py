"""Report on many runs: statistics, tables, plots, studies and comparisons of run folders."""
