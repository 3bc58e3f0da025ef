"""The catalogue in other tools' hands: asv (`catalogue.py`) and pytest-benchmark (`tests/`).

Neither has a list of its own: both take the cases from gradbench's registry.
"""
