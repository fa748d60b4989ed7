"""A wing of NumPy alone: it starts within a second, so that it can be killed often."""
