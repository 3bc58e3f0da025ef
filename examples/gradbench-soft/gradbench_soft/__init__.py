"""A function and a mode for gradbench."""
