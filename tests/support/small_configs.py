"""A config of a few seconds, as a dict, for tests of the Python API."""

from typing import Any

SMALL: dict[str, Any] = {
    "data": {"name": "mnist_mini", "limit": 300},
    "partition": {"name": "iid", "n_clients": 3},
    "model": "linear",
    "method": {"name": "edgefd", "n_clusters": 4},
    "train": {"rounds": 2},
    "run": {"workers": 0},
}
