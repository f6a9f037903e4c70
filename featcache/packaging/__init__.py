"""A run with its frozen model, as one folder that predicts raw samples."""
