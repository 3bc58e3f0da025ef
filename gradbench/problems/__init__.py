"""What is differentiated: functions with their derivatives, operators, the registry of both."""
