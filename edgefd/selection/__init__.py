"""Selection of the proxy rows that a server queries and that a client distils: docs/guides/selection-and-losses.md."""
