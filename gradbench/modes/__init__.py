"""The modes: ways of differentiating a function, one file per family."""
