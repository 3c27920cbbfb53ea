"""The nodes of a Ray cluster, and a check before a run that each of them can run its clients.

`edgefd.simulation.ray` starts `python -m edgefd_server.flower.ray_nodes` with the config on stdin. The process prints
one line of JSON: the problem of the first node that cannot run clients, or the number of nodes and cores.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.core.text import shown
from edgefd.core.version import __version__
from edgefd.core.yaml_files import parse_yaml

_CHECK_SECONDS = 60.0
"""longest time for a node to check what it has"""


@dataclass(frozen=True)
class RayNode:
    """A live node that runs clients."""

    node_id: str
    host: str
    cores: int


def ray_options() -> dict[str, Any]:
    """Return the arguments of `ray.init` for all processes of edgefd."""
    environment = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    return {"log_to_driver": False, "logging_level": "error", "runtime_env": environment}


def nodes_with_cores() -> list[RayNode]:
    """Return the live nodes of the cluster that have at least one core.

    Raises:
        UserError: if there is none.
    """
    live = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    sizes = [(node, int(node["Resources"].get("CPU", 0))) for node in live]
    nodes = [RayNode(node["NodeID"], node["NodeManagerHostname"], cores) for node, cores in sizes if cores]
    if not nodes:
        raise UserError(f"the Ray cluster has {len(live)} nodes, but no core: start nodes with --num-cpus above 0")
    return nodes


def check_nodes(nodes: Sequence[RayNode], config: str) -> None:
    """Check on each node that it has the edgefd of this process, and the models and files that its clients need.

    The data need not be there: they are sent to the nodes.

    Raises:
        UserError: for the first node that lacks something.
    """
    check = ray.remote(num_cpus=0, max_retries=0)(problem_of_node)
    waiting = []
    for node in nodes:
        there = check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
        waiting.append((node, there.remote(config, __version__)))
    for node, answer in waiting:
        try:
            problem = ray.get(answer, timeout=_CHECK_SECONDS)
        except GetTimeoutError:
            problem = f"it does not answer within {_CHECK_SECONDS:g} s"
        except RayError as error:
            problem = f"it cannot run edgefd: {cause(error)}"
        if problem:
            raise UserError(f"Ray node {node.host} ({node.node_id[:8]}): {problem}")


def problem_of_node(config: str, version: str) -> str:
    """Return what this node lacks, in one line; "" if nothing. Imports are here, because it runs on the node."""
    from pathlib import Path

    from edgefd.config.load import parse_config
    from edgefd.core.errors import UserError
    from edgefd.core.objects import load_object
    from edgefd.core.version import __version__ as here
    from edgefd.core.yaml_files import parse_yaml

    if here != version:
        return f"it has edgefd {here}, but this machine has {version}: install the same version"
    try:
        parsed = parse_config(parse_yaml(config))
        for model in parsed.model:
            if ":" in model.name:  # only now, because this imports torch
                from edgefd.learners.library_models import library_of

                if library_of(model.name) is None:
                    load_object(model.name, "model")
            if model.init is not None and not Path(model.init).exists():
                return f"it has no {model.init} (model.init): put the file there, or on storage that all nodes share"
    except UserError as error:
        return str(error)
    return ""


def cause(error: Exception) -> str:
    """Return the last line of an error of Ray, which names the cause, for one line of ours."""
    return shown(str(error).strip().rpartition("\n")[2])


def main() -> None:
    """Check the nodes of the cluster at RAY_ADDRESS."""
    config = sys.stdin.read()
    parse_config(parse_yaml(config))
    ray.init(**ray_options())
    try:
        nodes = nodes_with_cores()
        check_nodes(nodes, config)
        found: dict[str, Any] = {"nodes": len(nodes), "cores": sum(node.cores for node in nodes)}
    except UserError as error:
        found = {"problem": str(error)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
