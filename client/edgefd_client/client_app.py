"""The Flower ClientApp: a client of a simulation, or a device with its own data behind a stock `flower-supernode`.

Flower's simulation numbers its nodes (`partition-id`, `num-partitions`); a device says in `--node-config` where its
bundle, data and state are: see `edgefd_client.flower_node`.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("round")
def round(message: Message, context: Context) -> Message:
    """One round of one client. A failure is answered with its reason, which Flower itself would hide."""
    body = message.content["edgefd"]
    assert isinstance(body, ConfigRecord)
    try:
        answer = _answer(body, context)
    except Exception as error:  # the server counts it, or raises it again
        kind = "" if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: "
        answer = {"failure": f"{_name(context)}{kind}{error}"}
    return Message(content=RecordDict({"edgefd": ConfigRecord({**answer})}), reply_to=message)


def _answer(body: ConfigRecord, context: Context) -> dict[str, int | bytes | str]:
    if "num-partitions" in context.node_config:  # only there is torch needed
        from edgefd.simulation.ray_client import simulated_round

        return simulated_round(body, context)
    from edgefd_client.flower_node import node_round

    return node_round(body, context.node_config)


def _name(context: Context) -> str:
    client = context.node_config.get("partition-id")
    return "" if client is None else f"client {client} failed: "
