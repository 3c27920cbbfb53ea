"""One round of a device behind a standard Flower SuperNode, which starts a new process for each message.

The whole state is therefore in files, and a process does the same as `edgefd-client run` does in one pass of its loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import UserError
from edgefd.core.paths import user_path
from edgefd.federation.changes import digest_of
from edgefd.federation.clients import ClientData
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.device_link import read_terms
from edgefd_client.agent import one_round
from edgefd_client.contribution import load_contribution
from edgefd_client.link import Membership, check_terms, read_task, reading
from edgefd_client.sources import client_data, read_samples, source_of
from edgefd_client.trust import read_trusted_bundle

SETTINGS = ("bundle", "data", "state")
"""names in --node-config that must be given; each is a path"""


def node_round(body: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int | bytes | str]:
    """Run a round and return the reply to the coordinator: the client's number, and its report if it was sampled.

    Args:
        body: content of the message: run, terms and plan; the teacher after round 0; `held`, the digest of the
            client's knowledge that the coordinator holds, if it holds any; `client` if the coordinator knows the client
            by its key; `asked`, the sampled clients, if not all clients were sampled.
        settings: `--node-config` of the SuperNode: the paths `bundle`, `data` and `state`, and `client`, which may be
            left out if the coordinator knows the client; `trust-graph`, as for `edgefd-client run`.

    Raises:
        UserError: if the bundle, data, state or settings are not valid.
        RunError: if the round cannot be run or saved; the state saved before is intact.
    """
    if missing := [name for name in SETTINGS if name not in settings]:
        raise UserError(f"--node-config must give {', '.join(missing)}, such as {missing[0]}='\"PATH\"'")
    client = client_number(body.get("client"), settings.get("client"))
    if "asked" in body and client not in body["asked"]:
        return {"client": client}
    bundle_path, data, state = (user_path(str(settings[name])) for name in SETTINGS)
    trust = settings.get("trust-graph")
    bundle = read_trusted_bundle(bundle_path, None if trust is None else str(trust))
    with reading():
        terms = read_terms(wire.parsed(pb.Terms(), body["terms"]))
    check_terms(terms, bundle.manifest.terms, "export it from the config that the coordinator runs")
    private = _private_data(bundle, data, client, state)
    read = partial(read_task, body["plan"], body.get("teacher"), held=bytes(body.get("held", b"")))
    saved = one_round(Membership(str(body["run"]), terms), read, bundle, private, state, partial(print, flush=True))
    return {"client": client, "report": saved.report, "held": digest_of(saved.teacher)}


def _private_data(bundle: Bundle, data: Path, client: int, state: Path) -> ClientData:
    """Read the private data. The reason of a refusal stays here: the coordinator receives the text of an error.

    Raises:
        UserError: if the data do not fit the bundle; the text holds nothing of them.
    """
    try:
        samples = read_samples(source_of(data, bundle.manifest), bundle)
        return client_data(samples, bundle, client, load_contribution(state))
    except UserError as error:
        print(f"error: {error}", flush=True)
        raise UserError(f"client {client} cannot use its own data: the reason is in the log of the device") from None


def client_number(assigned: Any, configured: Any) -> int:
    """Return the number of this node's client, from the coordinator, which knows the node's key, or from the settings.

    Args:
        assigned: number from the coordinator; None if it does not know the node's key.
        configured: number from `--node-config`; None if it is left out.

    Raises:
        UserError: if both numbers are missing, or they differ, or the number is not valid.
    """
    if assigned is None and configured is None:
        raise UserError("--node-config must give client, the number of this client in the federation: 0, 1, ...")
    client = configured if assigned is None else assigned
    if type(client) is not int or client < 0 or configured not in (None, client):
        raise UserError(
            f"--node-config gives client {configured}, but the coordinator gives "
            f"{'no number' if assigned is None else f'client {assigned}'}: correct the client in --node-config"
        )
    return client
