"""The driver: plans, sessions and rounds, and the workers that it asks. Never imports torch."""
