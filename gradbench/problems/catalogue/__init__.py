"""What is differentiated: a file per family; each function stands beside its derivative."""
