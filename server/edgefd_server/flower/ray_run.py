"""Process that runs a configuration on Flower's simulation engine, which uses Ray.

`edgefd.simulation.ray` starts `python -m edgefd_server.flower.ray_run FOLDER CLIENTS` and ends it. The process reads
FOLDER/config.yaml and appends one line of JSON to FOLDER/lines.jsonl for each event.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ray
from edgefd_client.client_app import app_of_federation
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.core.json_files import append_json_line
from edgefd.federation.clients import Federation
from edgefd.runs.execute import simulate_rounds
from edgefd.runs.prepare import prepare
from edgefd_server.flower.ray_backend import use_cluster_backend
from edgefd_server.flower.ray_nodes import nodes_with_cores, ray_options
from edgefd_server.flower.server_app import over_grid


def main(work: Path, n_clients: int) -> None:
    """Start Ray or join its cluster, then run the configuration in `work`.

    The federation is prepared here, once, and sent to each node once: the processes of a node share it in the object
    store of Ray.
    """
    config, lines = load_config(work / "config.yaml"), work / "lines.jsonl"
    start_ray(config, work)
    nodes = nodes_with_cores()
    cores = sum(node.cores for node in nodes)
    append_json_line(lines, {"nodes": len(nodes), "cores": cores})
    use_cluster_backend(cores, lambda line: append_json_line(lines, line))
    federation = prepare(config).federation
    run_simulation(
        reporting_app(config, federation, lines),
        app_of_federation(ray.put(federation)),
        num_supernodes=n_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


def start_ray(config: Config, work: Path) -> None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS. Flower's engine uses the Ray that already runs."""
    options = ray_options()
    if "RAY_ADDRESS" not in os.environ:
        cores = max(config.run.n_workers, 1)
        options |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": str(work / "ray")}
        options |= {"_node_ip_address": "127.0.0.1"}
    ray.init(**options)


def reporting_app(config: Config, federation: Federation, lines: Path) -> ServerApp:
    """Create a ServerApp that appends the metrics of each round, and an error or the end, to the file `lines`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            with over_grid(grid, config, federation, None) as coordinator:
                for metrics in simulate_rounds(coordinator, config, federation):
                    append_json_line(lines, metrics.to_dict())
        except (RunError, UserError) as error:
            append_json_line(lines, {"error": str(error)})
            return
        append_json_line(lines, {"done": True})

    return app


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
