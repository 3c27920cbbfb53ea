"""Read recorded runs and store attack signals."""
