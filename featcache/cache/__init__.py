"""The cache: its identity, its layout on disk, writing and reading. Nothing here imports torch."""
