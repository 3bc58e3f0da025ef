"""Other tools: asv's history and pages, and pytest-benchmark's files."""
