"""What is on disk: append-only logs of runs, tracks and studies, and the cache of verdicts."""
