"""Rounds of a simulated client on Flower: each node is one client of the federation that the config describes.

Ray runs a client in any of its processes, so all state between rounds is in `context.state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from threadpoolctl import threadpool_limits

from edgefd.config.load import parse_config
from edgefd.config.schema import Config, Model
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.yaml_files import parse_yaml
from edgefd.defences.apply import key_of
from edgefd.federation.changes import digest_of, published_of
from edgefd.federation.clients import Federation
from edgefd.federation.context import ClientContext, client_context
from edgefd.rounds.client import publish
from edgefd.runs.learners import make_learner, model_sessions
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import client_acceptance, client_report, expected_teacher_of
from edgefd.wire import messages as wire

if TYPE_CHECKING:
    from edgefd.learners.onnx_learner import Sessions


def simulated_round(body: Mapping[str, Any], context: Context, reference: Any = None) -> dict[str, int | bytes | str]:
    """Run a client's round; return its number, and its encoded report if the client was sampled.

    Args:
        body: the coordinator's message: config, plan; teacher after round 0; `asked` if not all clients are sampled.
        context: the context of this client, which stores its state.
        reference: the federation in Ray's object store; None = this process builds it from the config.

    Raises:
        UserError: if the message holds no config.
    """
    client = int(context.node_config["partition-id"])
    if "asked" in body and client not in body["asked"]:
        return {"client": client}
    if "config" not in body:
        raise UserError("a simulated client needs the config: submit the app with `config`, see docs/guides/flower.md")
    config, federation, sessions = _federation(str(body["config"]), reference)
    plan = wire.decode_plan(body["plan"], len(federation.proxy))
    if (finished := _finished(context, plan.round)) is not None:
        return {"client": client, **finished}
    state = _restore(config, federation, sessions, client, context)
    expected = expected_teacher_of(config, federation)
    held, sent = _arrays(context, "teacher"), _arrays(context, "published")
    expected = replace(expected, held=Knowledge(**held) if held else None)
    teacher = wire.decode(body["teacher"], expected) if "teacher" in body else None
    report, _ = client_report(config, federation, state, plan, teacher)
    before = published_of(sent) if sent else None
    report, changes, published = publish(state.terms, plan, report, before, bytes(body.get("held", b"")))
    context.state["learner"] = _record(state.learner.state())
    client_arrays = {"claims": state.acceptance, "next_round": np.array([plan.round + 1])}
    context.state["claims"] = _record(client_arrays | {"noise_key": np.array(state.noise_key, np.uint32)})
    reply: dict[str, bytes] = {"report": wire.encode_report(report, state.terms.codec, changes)}
    if published is not None:
        context.state["published"] = _record(published.to_arrays())
        if teacher is not None:
            context.state["teacher"] = _record(vars(teacher))
            reply["held"] = digest_of(teacher)
    context.state["reply"] = ConfigRecord({"round": plan.round, **reply})
    return {"client": client, **reply}


def _finished(context: Context, round: int) -> dict[str, bytes] | None:
    """Return the reply to a round that the client has run before, because a slow reply makes the server ask again."""
    if "reply" not in context.state:
        return None
    reply = context.state["reply"]
    assert isinstance(reply, ConfigRecord)
    fields = {name: value for name, value in reply.items() if isinstance(value, bytes)}
    return fields if reply["round"] == round else None


@lru_cache(maxsize=1)
def _federation(text: str, reference: Any) -> tuple[Config, Federation, Callable[[Model], Sessions]]:
    """Return the federation of a config, once in each process.

    The processes of a node share the arrays of the object store, which nobody may change. Without a `reference`, each
    builds the same federation, because the seed keys all randomness.
    """
    torch.set_num_threads(1)  # like the in-process engine: more threads change bits
    threadpool_limits(1, "blas")
    config = parse_config(parse_yaml(text))
    if reference is None:
        federation = prepare(config).federation
    else:
        import ray

        federation = ray.get(reference)
    return config, federation, model_sessions(config, federation)


def _restore(
    config: Config, federation: Federation, sessions: Callable[[Model], Sessions], client: int, context: Context
) -> ClientContext:
    """Return the client's state after its last round, or a new state."""
    data = federation.clients[client]
    learner = make_learner(config, data, federation.n_classes, sessions)
    terms = terms_of(config, federation)
    if "learner" in context.state:
        learner.load_state(_arrays(context, "learner"))
        saved = _arrays(context, "claims")
        acceptance, next_round = saved["claims"], int(saved["next_round"][0])
        noise_key = tuple(saved["noise_key"].tolist())
    else:
        next_round, noise_key = 0, key_of(config.defence)
        acceptance = client_acceptance(config, data, federation, terms)
    restored = client_context(data, learner, federation.proxy, acceptance, terms, config.method_config)
    return replace(restored, next_round=next_round, noise_key=noise_key)


def _arrays(context: Context, name: str) -> dict[str, np.ndarray]:
    if name not in context.state:
        return {}
    record = context.state[name]
    assert isinstance(record, ArrayRecord)
    return {key: array.numpy() for key, array in record.items()}


def _record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({key: Array(value) for key, value in arrays.items()})
