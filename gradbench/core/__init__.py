"""Shared by driver and worker: names of cases, units, text, releases. Imports no torch."""
