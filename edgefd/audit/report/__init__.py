"""Findings, verdicts, and the audit page."""
