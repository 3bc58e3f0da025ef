"""Torch releases: which there are, one environment each, and their history in asv's files."""
