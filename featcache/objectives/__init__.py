"""What a training optimises, one objective per file; the name of the file is its key."""
