"""The formats that embeddings come in: one per file, found by its name."""
