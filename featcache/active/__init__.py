"""Which samples to label next, and what more labels would bring: arithmetic on arrays, no files."""
