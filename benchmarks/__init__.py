"""Compare featcache with its peers and with the limits of the machine, as ratios measured in one run."""
