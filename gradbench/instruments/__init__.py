"""What is measured: a file per instrument, behind one small interface."""
