"""A round of a client in Flower's simulation: one node is one client of the federation that the config describes.

Ray gives a client to any of its processes, so all that lasts between rounds is in `context.state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from flwr.app import Array, ArrayRecord, Context

from edgefd.config.load import parse_config
from edgefd.config.schema import Config, Model
from edgefd.core.errors import UserError
from edgefd.federation.clients import Federation
from edgefd.federation.state import ClientState
from edgefd.runs.learners import make_learner, model_sessions
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import client_acceptance, client_report
from edgefd.wire import messages as wire

if TYPE_CHECKING:
    from edgefd.learners.onnx_learner import Sessions


def simulated_round(body: Mapping[str, Any], context: Context) -> dict[str, int | bytes | str]:
    """The answer to a coordinator's message: this client's number, and its report if it was asked for one.

    Args:
        body: of the message: config, plan; teacher after round 0; `asked` where not everybody is asked.
        context: of this client; its state is kept there.
    """
    client = int(context.node_config["partition-id"])
    if "asked" in body and client not in body["asked"]:
        return {"client": client}
    if "config" not in body:
        raise UserError("a simulated client needs the config: submit the app with `config`, see docs/guides/flower.md")
    config, federation, sessions = _federation(str(body["config"]))
    state = _restore(config, federation, sessions, client, context)
    known = wire.decode(body["teacher"]) if "teacher" in body else None
    report = client_report(config, federation, state, wire.decode_plan(body["plan"]), known)
    context.state["learner"] = _record(state.learner.state())
    context.state["claims"] = _record({"claims": state.acceptance})
    return {"client": client, "report": wire.encode_report(report, config.codec.name)}


@lru_cache(maxsize=1)
def _federation(text: str) -> tuple[Config, Federation, Callable[[Model], Sessions]]:
    """Built once a process; the same everywhere, as all that is random in it is keyed by the seed."""
    torch.set_num_threads(1)  # as the in-process engine does: more threads change bits
    config = parse_config(yaml.safe_load(text))
    federation = prepare(config).federation
    return config, federation, model_sessions(config, federation)


def _restore(
    config: Config, federation: Federation, sessions: Callable[[Model], Sessions], client: int, context: Context
) -> ClientState:
    """The client as its last round left it, or a new one."""
    data = federation.clients[client]
    learner = make_learner(config, data, federation.n_classes, sessions)
    if "learner" not in context.state:
        return ClientState(data, learner, federation.n_classes, client_acceptance(config, data, federation))
    learner.load_state(_arrays(context, "learner"))
    return ClientState(data, learner, federation.n_classes, _arrays(context, "claims")["claims"])


def _arrays(context: Context, name: str) -> dict[str, np.ndarray]:
    record = context.state[name]
    assert isinstance(record, ArrayRecord)
    return {key: array.numpy() for key, array in record.items()}


def _record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({key: Array(value) for key, value in arrays.items()})
