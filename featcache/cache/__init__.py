"""The cache on disk: what it means, where every byte lies, writing it, reading it. No torch here."""
