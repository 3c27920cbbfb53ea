"""Errors that the user can mend."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do."""
