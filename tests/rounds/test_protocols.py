"""Every published protocol runs: its method, selection, loss and training fit together."""

import pytest

from edgefd.config.load import load_config
from edgefd.config.protocols import PROTOCOLS
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

SMALL = {
    "data": {"name": "mnist_mini", "limit": 300},
    "partition": {"name": "iid", "n_clients": 2},
    "model": "linear",
    "proxy": {"alpha": 0.3},
    "train": {"rounds": 2, "warmup_steps": 2, "batch_size": 30, "local_batch_size": 20},
    "run": {"workers": 0},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_published_protocol_runs_on_small_data(name: str) -> None:
    draws = "selection" in PROTOCOLS[name].settings
    config = load_config({**SMALL, "protocol": name}, {"selection.budget": 30} if draws else {})
    rounds = list(simulate(open_transport(config, prepare(config).federation)))
    assert [m.closing for m in rounds] == [False, False, True]
    assert rounds[0].train_loss is not None
    assert rounds[-1].accuracy_mean is not None
    if draws:
        assert rounds[1].teacher_coverage <= 30 / len(prepare(config).federation.proxy)
