"""What to say about a function of the user's: its structure, what it costs, which way to take."""

NAME = "yours"
"""The name under which the user's function takes part in its run."""
