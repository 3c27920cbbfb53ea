"""Membership told from masks and weights alone: canary pairs in the client filter.

For each client, fresh records of its classes are its canaries, in two halves. The filter is fitted with the first half
among the private records, then with the second: so every canary is answered once as a member and once not, and nothing
but membership differs. All canaries are put among the proxy samples, as a malicious server would. It costs fits of the
filter, and no training.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.audit.recording.candidates import fresh_records
from edgefd.audit.recording.read import Recording
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Float32
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.rounds.client import client_filter

_SHARE = 0.1  # canaries to private records, at most: more would change what the filter takes for the client's data
_NOISE = 10  # records with their numbers shuffled: unlike anything, so the filter must betray them


def filter_signals(recording: Recording) -> Arrays:
    """How surely each client answers for each canary.

    Returns:
        `inside`, `outside` float32 [k]: for the same canaries as members and as non-members, with `client` int64 [k];
        `null` float32 [k] and `null_member` bool [k]: with no canary in, for a membership that never was;
        `noise_inside`, `noise_outside` float32 [j]: the positive control.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*_NAMES, "client")}
    dealt = fresh_records(recording.federation, recording.config.seed, _SHARE)
    for data, fresh in zip(recording.federation.clients, dealt, strict=True):
        if not len(fresh):
            continue
        rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.FILTER_CANARIES, data.client)
        for name, values in _pairs(recording, data, fresh, rng).items():
            found[name].append(values)
        found["client"].append(np.full(len(fresh), data.client))
    return {name: np.concatenate(parts) for name, parts in found.items()}


_NAMES = ("inside", "outside", "null", "null_member", "noise_inside", "noise_outside")


def _pairs(recording: Recording, data: ClientData, fresh: Float32, rng: np.random.Generator) -> Arrays:
    half = len(fresh) // 2
    noise = rng.permuted(fresh[: 2 * _NOISE].reshape(len(fresh[: 2 * _NOISE]), -1), axis=1)
    noise = noise.reshape(len(noise), *fresh.shape[1:])
    first = _weights(recording, data, fresh[:half], fresh)
    second = _weights(recording, data, fresh[half:], fresh)
    nobody = _weights(recording, data, fresh[:0], fresh)
    loud = _weights(recording, data, noise[: len(noise) // 2], noise)
    return {
        "inside": np.concatenate([first[:half], second[half:]]),
        "outside": np.concatenate([second[:half], first[half:]]),
        "null": nobody,
        "null_member": np.arange(len(fresh)) < half,
        "noise_inside": loud[: len(noise) // 2],
        "noise_outside": loud[len(noise) // 2 :],
    }


def _weights(recording: Recording, data: ClientData, members: Float32, asked: Float32) -> Float32:
    """The client's answer for `asked`, put among the proxy samples, with `members` among its private records."""
    proxy, config = recording.federation.proxy, recording.config
    x = np.concatenate([data.x, members])
    y = np.concatenate([data.y, np.full(len(members), data.y[0])])  # filters look at x
    with_rows = ProxySet(np.concatenate([proxy.x, asked]), np.concatenate([proxy.owner, np.full(len(asked), -1)]))
    acceptance = client_filter(config.method, config.method_config, replace(data, x=x, y=y), with_rows, config.seed)
    return acceptance[len(proxy) :]
