"""How it is differentiated: a file per family of modes."""
