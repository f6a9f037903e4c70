"""The small trainable parts: the projector, its aggregation, heads and critics."""
