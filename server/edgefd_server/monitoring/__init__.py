"""Metrics, event log and status page of a coordinator."""
