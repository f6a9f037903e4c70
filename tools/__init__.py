"""What is run by hand: never part of the wheel."""
