"""The catalogue: functions from the source notebooks, each with its analytic derivatives."""
