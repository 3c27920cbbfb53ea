"""Client side of edgefd."""
