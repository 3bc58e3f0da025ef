"""What was measured: run logs, data frames, exports."""
