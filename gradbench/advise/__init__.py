"""What to say about a function of the user's: its structure, what it costs, which way to take."""

OPERATORS = (
    "gradient",
    "jacobian",
    "vjp",
    "jvp",
    "hvp",
    "hessian",
    "diagonal",
    "batch_jacobian",
)
"""The derivatives that can be asked for; which of them a function has is found by looking at it."""
