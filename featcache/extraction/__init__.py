"""From samples to rows of a cache: read and preprocess, forward, write, all at once."""
