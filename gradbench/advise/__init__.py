"""What to say about a function of the user's: its structure, what it costs, which way to take."""
