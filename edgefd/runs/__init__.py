"""A run, simulated or real: preparation, execution, metrics and the run folder."""
