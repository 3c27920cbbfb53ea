"""Which proxy rows the server asks about, and which rows of the teacher a client learns: docs/guides/selection-and-losses.md."""
