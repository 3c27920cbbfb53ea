"""Configs that several test modules use."""

from typing import Any

PRIVATE: dict[str, Any] = {
    "data": {"name": "mnist_mini", "limit": 600},
    "partition": {"name": "weak", "n_clients": 4},
    "proxy": {"source": "public"},
    "model": {"name": "mlp"},
    "method": {"name": "fedmd"},
    "train": {"rounds": 2, "local_steps": 2, "private_rows_per_batch": 0, "adjusted_steps": 0},
    "run": {"workers": 0},
    "defence": {"name": "dp_sgd"},
}
