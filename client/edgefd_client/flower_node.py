"""A round of a device behind a stock Flower SuperNode, which starts a new process for each message.

So everything that lasts is in files, and a process does what `edgefd-client run` does in one turn of its loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import RunError, UserError
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import Bundle, read_bundle
from edgefd.wire.device_link import read_terms
from edgefd_client.agent import one_round
from edgefd_client.contribution import load_contribution
from edgefd_client.link import Task
from edgefd_client.sources import client_data, source_of

SETTINGS = ("bundle", "data", "state")


def node_round(body: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int | bytes | str]:
    """The answer to a coordinator's message: this client's number, and its report if it was asked for one.

    Args:
        body: of the message: run, terms, plan; teacher after round 0; `client` where the coordinator knows by the key
            which client this node is; `asked` where not everybody is asked.
        settings: the SuperNode's `--node-config`: paths `bundle`, `data` and `state`, and `client`, which may be left
            out where the coordinator knows.

    Raises:
        UserError: if something about bundle, data, state or settings is not as it must be.
        RunError: if the round cannot be done or saved; the state saved before is intact.
    """
    if missing := [name for name in SETTINGS if name not in settings]:
        raise UserError(f"--node-config must give {', '.join(missing)}, such as {missing[0]}='\"PATH\"'")
    client = which_client(body.get("client"), settings.get("client"))
    if "asked" in body and client not in body["asked"]:
        return {"client": client}
    bundle_path, data, state = (Path(str(settings[name])) for name in SETTINGS)
    bundle = read_bundle(bundle_path)
    _compare(body["terms"], bundle)
    private = client_data(source_of(data, bundle.manifest), bundle, client, load_contribution(state))
    report = one_round(str(body["run"]), _task(body), bundle, private, state, _say)
    return {"client": client, "report": report}


def which_client(told: Any, own: Any) -> int:
    """Which client this node is: as the coordinator says, who knows its key, or as its own settings do.

    Raises:
        UserError: if neither says it, or they differ.
    """
    if told is None and own is None:
        raise UserError("--node-config must give client: which client of the federation this is, 0, 1, ...")
    client = own if told is None else told
    if type(client) is not int or client < 0 or own not in (None, client):
        raise UserError(f"--node-config says client {own}, the coordinator {'nothing' if told is None else told}")
    return client


def _compare(terms: bytes, bundle: Bundle) -> None:
    try:
        different = read_terms(wire.parsed(pb.Terms(), terms)).differences(bundle.manifest.terms)
    except ValueError as error:
        raise RunError(f"cannot read what the coordinator sent: {error}") from error
    if different:
        raise UserError(
            f"the bundle is not of this federation ({', '.join(different)} differ): export it from the config that the "
            "coordinator runs"
        )


def _task(body: Mapping[str, Any]) -> Task:
    try:
        teacher = wire.decode(body["teacher"]) if "teacher" in body else None
        return Task(wire.decode_plan(body["plan"]), teacher)
    except ValueError as error:
        raise RunError(f"cannot read what the coordinator sent: {error}") from error


def _say(line: str) -> None:
    print(line, flush=True)
