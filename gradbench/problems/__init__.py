"""Functions with their derivatives, operators, and the registry of functions and modes."""
