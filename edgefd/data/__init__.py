"""Data sets, how they are dealt out to clients, and the proxy set that clients share."""
