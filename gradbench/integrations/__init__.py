"""Other tools: asv's history and site, and pytest-benchmark's files."""
