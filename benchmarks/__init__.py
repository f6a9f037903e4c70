"""featcache against its peers and against the limit of the machine, as ratios measured in one run."""
