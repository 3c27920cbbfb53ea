"""Data sets, their partition among clients, and the proxy set that all clients share."""
