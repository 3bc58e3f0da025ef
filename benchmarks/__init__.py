"""The catalogue for other tools: asv (`catalogue.py`) and pytest-benchmark (`tests/`).

Both take the cases from gradbench's registry.
"""
