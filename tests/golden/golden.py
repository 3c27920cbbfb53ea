"""Round-by-round metrics of short runs on shipped data, one a method, pinned in json files beside this one."""

import json
from pathlib import Path

from edgefd.config.load import parse_config
from edgefd.federation.method import MessageKind
from edgefd.methods import get_method, method_names
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

FOLDER = Path(__file__).parent
CASES = method_names()
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
    """A few rounds on a part of mnist_mini under weak non-IID.

    Eight on 3,000 samples are enough to be far from chance; of the methods beside EdgeFD and what it is first compared
    with, three on 1,000 are enough to see a change.
    """
    limit, rounds = (3000, 8) if method in FIRST else (1000, 3)
    own = {"n_clusters": 20} if method == "edgefd" else {}
    models = [{"name": "cnn_edge"}, {"name": "mlp"}]
    config = parse_config(
        {
            "data": {"name": "mnist_mini", "limit": limit},
            "partition": {"name": "weak", "n_clients": 10},
            "model": models[:1] if get_method(method).message is MessageKind.PARAMETERS else models,
            "method": {"name": method, **own},
            "train": {"rounds": rounds},
            "run": {"workers": 0},
        }
    )
    done = simulate(open_transport(config, prepare(config).federation))
    return [{key: value for key, value in m.to_dict().items() if key in PINNED} for m in done]


def dump(rounds: list[dict[str, float | int | None]]) -> str:
    """One line a round."""
    return "[\n" + ",\n".join(json.dumps(r) for r in rounds) + "\n]\n"
