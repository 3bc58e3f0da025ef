"""What commands do, as functions: `gradbench.run` and `gradbench.track`."""
