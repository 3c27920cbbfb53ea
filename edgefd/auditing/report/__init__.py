"""Findings, limits and verdicts of an audit, its page and its terminal output."""
