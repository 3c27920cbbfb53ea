"""Membership inferred from masks and weights alone: canary pairs in the client filter.

For each client, fresh records of its classes are its canaries, in two halves. The filter is fitted with the first half
among the private records, then with the second half. So every canary is weighted once as a member and once as a
non-member, and nothing but membership differs. All canaries are put among the proxy samples, as a malicious server
would do. This costs fits of the filter, and no training.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.auditing.attacks.model_outputs import acceptance_of
from edgefd.auditing.recording.candidates import fresh_records
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData

_SHARE = 0.1  # largest ratio of canaries to private records; more would change what the filter accepts
_NOISE = 10  # records with shuffled values: they resemble no other record, so the filter must disclose them
_NAMES = ("inside", "outside", "null", "null_member", "noise_inside", "noise_outside")


def filter_signals(recording: Recording) -> Arrays:
    """Return each client's acceptance weights of its canaries.

    Returns:
        `inside`, `outside` float32 [k]: of the same canaries as members and as non-members, with `client` int64 [k];
        `null` float32 [k] and `null_member` bool [k]: without a canary in the private data, for an invented membership;
        `noise_inside`, `noise_outside` float32 [j]: the positive control.
    """
    signals: dict[str, list[np.ndarray]] = {name: [] for name in (*_NAMES, "client")}
    canaries = fresh_records(recording.federation, recording.config.seed, _SHARE)
    for data, fresh in zip(recording.federation.clients, canaries, strict=True):
        if not len(fresh):
            continue
        rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.FILTER_CANARIES, data.client)
        for name, values in _pairs(recording, data, fresh, rng).items():
            signals[name].append(values)
        signals["client"].append(np.full(len(fresh), data.client))
    return {name: np.concatenate(parts) for name, parts in signals.items()}


def _pairs(recording: Recording, data: ClientData, fresh: Float32, rng: np.random.Generator) -> Arrays:
    half = len(fresh) // 2
    noise = shuffled_records(fresh, rng)
    with_first = _weights(recording, data, fresh[:half], fresh)
    with_second = _weights(recording, data, fresh[half:], fresh)
    with_none = _weights(recording, data, fresh[:0], fresh)
    with_noise = _weights(recording, data, noise[: len(noise) // 2], noise)
    return {
        "inside": np.concatenate([with_first[:half], with_second[half:]]),
        "outside": np.concatenate([with_second[:half], with_first[half:]]),
        "null": with_none,
        "null_member": np.arange(len(fresh)) < half,
        "noise_inside": with_noise[: len(noise) // 2],
        "noise_outside": with_noise[len(noise) // 2 :],
    }


def shuffled_records(fresh: Float32, rng: np.random.Generator) -> Float32:
    """Return a few records, float32 [n, ...], each with its values in random order, for a positive control."""
    x = fresh[: 2 * _NOISE]
    return rng.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)


def _weights(recording: Recording, data: ClientData, members: Float32, queried: Float32) -> Float32:
    """Return the weights of `queried`, put among the proxy samples, with `members` added to the private records."""
    x = np.concatenate([data.x, members])
    y = np.concatenate([data.y, np.full(len(members), data.y[0])])  # a filter uses x alone
    return acceptance_of(recording.config, recording.federation, replace(data, x=x, y=y), queried)
