"""Errors that a command reports in one line."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do."""


class RunError(RuntimeError):
    """A run that cannot go on, and why."""
