"""The commands of the command line, one per file: parse, call one stage, print."""
