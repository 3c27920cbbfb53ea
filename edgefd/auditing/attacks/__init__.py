"""Attacks: each computes signals from a recorded run, and scores or findings from the signals."""
