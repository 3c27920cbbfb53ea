"""Federated distillation for edge devices: simulate it, deploy it, audit what it leaks."""

__version__ = "0.1.0"
