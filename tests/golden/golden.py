"""Metrics of every round of one short run per method on shipped data, pinned in the JSON files of this folder."""

import json
from pathlib import Path

from edgefd.config.load import parse_config
from edgefd.federation.method import MessageKind
from edgefd.methods import get_method, method_names
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

FOLDER = Path(__file__).parent
CASES = method_names()
OF_ONE_MODEL = (MessageKind.PARAMETERS, MessageKind.PROTOTYPES)
FIRST = ("edgefd", "fedmd", "indlearn", "pooled_proxy", "centralised")
PINNED = (
    "accuracy_mean",
    "accuracy_worst",
    "kept_fraction",
    "wrong_claims",
    "teacher_coverage",
    "teacher_accuracy",
    "bytes_up",
    "bytes_down",
)


def metrics(method: str) -> list[dict[str, float | int | None]]:
    """Run a few rounds on a part of mnist_mini with a weak non-IID split.

    EdgeFD and the methods with which it is compared first run 8 rounds on 3,000 samples, which is enough to be far from
    chance. The other methods run 3 rounds on 1,000 samples, which is enough to see a change. The codec is float16,
    because low bits, which differ between processors, change more with the coarse default.
    """
    limit, rounds = (3000, 8) if method in FIRST else (1000, 3)
    settings = {"n_clusters": 20} if method == "edgefd" else {}
    models = [{"name": "cnn_edge"}, {"name": "mlp"}]
    config = parse_config(
        {
            "data": {"name": "mnist_mini", "limit": limit},
            "partition": {"name": "weak", "n_clients": 10},
            "model": models[:1] if get_method(method).message in OF_ONE_MODEL else models,
            "method": {"name": method, **settings},
            "train": {"rounds": rounds},
            "codec": {"name": "float16"},
            "run": {"workers": 0},
        }
    )
    rounds_done = simulate(open_transport(config, prepare(config).federation))
    return [{key: value for key, value in m.to_dict().items() if key in PINNED} for m in rounds_done]


def dump(rounds: list[dict[str, float | int | None]]) -> str:
    """Format the metrics with one line per round."""
    return "[\n" + ",\n".join(json.dumps(r) for r in rounds) + "\n]\n"
