"""Measure what exchanged knowledge discloses: signals (computed once), attacks (pure functions), and a report."""
