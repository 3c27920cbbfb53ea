"""Clients on a Ray cluster whose nodes can die: a client whose process dies runs again elsewhere.

Flower's engine puts an actor whose node died back among the idle ones, where it fails one client after another. It also
runs no more clients at a time than suit the cores of the driver's machine. This backend replaces both.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from ray.exceptions import ObjectLostError, RayActorError

from edgefd.core.errors import UserError
from edgefd_server.flower.ray_nodes import cause, nodes_with_cores

Report = Callable[[dict[str, Any]], None]
_WITHOUT_CORES = 60.0
"""seconds without any core after which a run ends"""


class ClusterBackend(raybackend.RayBackend):
    """Flower's backend for Ray with actors that are replaced when they die.

    The state of a client is at the driver, and its random numbers depend on its number and the round alone. So the
    results do not depend on the process that runs it, and not on how often it was run.

    Args:
        report: called with the fields of a line for the process that started this one: `again`, a client that runs
            again; `error`, if the cluster has lost all its cores.
        backend_config: as Flower gives it.
    """

    def __init__(self, report: Report, backend_config: Any) -> None:
        super().__init__(backend_config)
        self._report = report
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def build(self, app_fn: Any) -> None:
        """Start an actor for each core of the cluster."""
        super().build(app_fn)
        assert self.pool is not None
        for actor in self.pool.pool:
            self._idle.put(actor)

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Run a client on the next actor that is idle, and again on others while they die; return reply and state."""
        client = str(context.node_config["partition-id"])
        while True:
            actor = self._idle.get()
            try:
                _, reply, state = ray.get(actor.run.remote(self.app_fn, message, client, context))
            except (RayActorError, ObjectLostError) as error:  # the node or the process died, or the result with it
                self._report({"again": client, "reason": cause(error)})
                self._replace(actor)
            except BaseException:
                self._idle.put(actor)
                raise
            else:
                self._idle.put(actor)
                return reply, state

    def _replace(self, dead: Any) -> None:
        """Start an actor in place of one that died. It waits for a free core if a node took its cores with it."""
        assert self.pool is not None
        ray.kill(dead)  # it may live on a node that only the network separates
        actor = self.pool.create_actor_fn()  # type: ignore[no-untyped-call]
        self.pool.pool[self.pool.pool.index(dead)] = actor
        threading.Thread(target=self._await, args=(actor,), daemon=True).start()

    def _await(self, actor: Any) -> None:
        """Wait until a new actor runs, then let it run clients."""
        ready = actor.__ray_ready__.remote()
        while not ray.wait([ready], timeout=_WITHOUT_CORES)[0]:
            try:
                nodes_with_cores()
            except UserError as error:
                self._report({"error": str(error)})
                return
        self._idle.put(actor)


def use_cluster_backend(cores: int, report: Report) -> None:
    """Let Flower's engine in this process use `ClusterBackend`, and run `cores` clients at a time.

    The engine has no setting for either.
    """
    replaced = (
        (raybackend, "RayBackend", functools.partial(ClusterBackend, report)),
        (vce_api, "ThreadPoolExecutor", functools.partial(ThreadPoolExecutor, max_workers=cores)),
    )
    for module, name, value in replaced:
        setattr(module, name, value)
