"""Turn rows of a cache into batches on the device: plan the order, then read fast."""
