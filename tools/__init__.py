"""Scripts to run by hand; they are not part of the wheel."""
