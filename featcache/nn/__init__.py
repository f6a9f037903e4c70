"""Small trainable modules: the projector, its aggregation, heads and critics."""
