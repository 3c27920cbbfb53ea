"""Density estimators that tell a client's own kind of data from the rest: `fit(x)`, `score_samples(x)`."""
