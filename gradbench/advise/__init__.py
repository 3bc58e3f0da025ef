"""Advice on a user's function: which way of differentiating to use, with evidence and code."""

DEFINITIONS = ("differences", "autograd")
"""What decides where autograd and finite differences disagree."""
