"""The measuring process: `python -m gradbench.worker [--memory-limit BYTES] [--from FILE]...`."""

from gradbench.core.process import Wire

if __name__ == "__main__":
    # Before torch is imported: that takes seconds, in which the driver can be killed.
    wire = Wire()

    from gradbench.worker.server import main

    main(wire)
