"""One run: the directory a training leaves behind."""
