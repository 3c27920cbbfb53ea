"""Simulated attackers and robust aggregation rules."""
