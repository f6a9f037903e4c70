"""Check labels and samples before they are trusted: doubtful labels, duplicates, leaks, failed rows."""
