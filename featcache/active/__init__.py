"""Choose the samples to label next, and say what more labels would bring."""
