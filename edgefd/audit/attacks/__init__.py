"""Attacks: each computes signals from a recorded run."""
