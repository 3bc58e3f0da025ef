"""From stored samples to verdicts: runs, tracks, two runs beside each other, data frames."""
