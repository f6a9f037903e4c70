"""Own embeddings in, caches out: read arrays of other formats into a cache, and write a cache in them."""
