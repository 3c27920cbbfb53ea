"""Simulation: a federation in one process, or in workers on one machine, with its run folder."""
