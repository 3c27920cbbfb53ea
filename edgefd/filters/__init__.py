"""Density-ratio filters: decide which proxy samples a client may answer for."""
