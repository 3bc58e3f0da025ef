"""The measuring process: the gate, devices, instruments. Torch and the standard library only."""
