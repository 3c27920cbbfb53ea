"""Simulation: engines that run a whole federation on one machine or on Ray, and sweeps over many runs."""
