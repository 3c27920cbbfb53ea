"""Side-by-side measurements: paired, interleaved, as ratios. `make bench` runs them all."""
