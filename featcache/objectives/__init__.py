"""Objectives: one per file, and the name of the file is its key."""
