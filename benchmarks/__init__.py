"""Benchmarks: paired, interleaved measurements that are reported as ratios. `make bench` runs all of them."""
