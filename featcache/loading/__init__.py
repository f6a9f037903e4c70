"""From rows of a cache to batches on the device: which rows when, then reading them fast."""
