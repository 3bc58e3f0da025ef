"""Advice on a user's function: which way of differentiating to use, with evidence and code."""

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

DEFINITIONS = ("differences", "autograd")
"""What decides where autograd and finite differences disagree."""
