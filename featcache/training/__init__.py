"""The loop, its state and options, and the honest evaluation at the end."""
