"""One module for each command: extract, train, predict, run, bench and info."""
