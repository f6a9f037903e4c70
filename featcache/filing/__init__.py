"""Write what was predicted: a table, and folders with links to, or copies of, the files of each class."""
