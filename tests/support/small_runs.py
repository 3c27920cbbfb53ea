"""Small simulations with results in memory."""

from typing import Any

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.knowledge import Knowledge
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import open_transport, simulate


def config(workers: int = 0, learner: str = "torch", **sections: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "iid", "n_clients": 3},
            "model": {"name": "mlp"},
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 3},
            "run": {"workers": workers, "learner": learner},
            **sections,
        }
    )


def rounds(c: Config) -> list[RoundMetrics]:
    return list(simulate(open_transport(c, prepare(c).federation)))


def results(c: Config) -> list[RoundResult]:
    federation = prepare(c).federation
    transport = open_transport(c, federation)
    transport.start()
    done = list(run_rounds(make_server(c, federation), transport))
    transport.pool.close()
    return done


def teachers(c: Config) -> list[Knowledge]:
    return [r.teacher for r in results(c) if r.teacher is not None]
