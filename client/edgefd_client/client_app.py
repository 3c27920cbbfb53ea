"""The Flower ClientApp: a client of a simulation, or a device with its own data behind a standard `flower-supernode`.

Flower's simulation numbers its nodes (`partition-id`, `num-partitions`). A device gives the paths of its bundle, data
and state in `--node-config`: see `edgefd_client.flower_node`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


Reply = dict[str, int | bytes | str]


@app.query("round")
def round(message: Message, context: Context) -> Message:
    """Run one round of one client."""
    return _answered(message, context, _reply)


def app_of_federation(reference: Any) -> ClientApp:
    """Return an app of the simulated clients of a federation that is in Ray's object store."""
    simulated = ClientApp()

    @simulated.query("round")
    def round(message: Message, context: Context) -> Message:
        from edgefd.simulation.ray_client import simulated_round

        return _answered(message, context, lambda body, context: simulated_round(body, context, reference))

    return simulated


def _answered(message: Message, context: Context, run: Callable[[ConfigRecord, Context], Reply]) -> Message:
    """Return the reply to a message. The reply to a failure contains its reason, which Flower itself would hide."""
    body = message.content["edgefd"]
    assert isinstance(body, ConfigRecord)
    try:
        reply = run(body, context)
    except Exception as error:  # the server counts the failure, or raises it
        kind = "" if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: "
        reply = {"failure": f"{_client(context)}{kind}{error}"}
    return Message(content=RecordDict({"edgefd": ConfigRecord({**reply})}), reply_to=message)


def _reply(body: ConfigRecord, context: Context) -> Reply:
    if "num-partitions" in context.node_config:  # only a simulation needs torch
        from edgefd.simulation.ray_client import simulated_round

        return simulated_round(body, context)
    from edgefd_client.flower_node import node_round

    return node_round(body, context.node_config)


def _client(context: Context) -> str:
    client = context.node_config.get("partition-id")
    return "" if client is None else f"client {client} failed: "
