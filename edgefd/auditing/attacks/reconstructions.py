"""Reconstruct images from soft labels: paired-logits inversion.

A decoder learns, from the proxy samples, which image belongs to a pair of soft labels: that of the client, and that of
a model which the server distils from the last teacher. For each class that the client has, it then receives the pair in
which the client is most confident, and reconstructs an image (after Takahashi, Liu and Liu, "Breaching FedMD",
CVPR 2023).

A reconstruction of a 1 looks like every 1. So it is compared with two equally large sets of records of its class that
only a random draw separates: those that the client trained on, and those that it held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefd.auditing.attacks.decoder import decode
from edgefd.auditing.attacks.extraction import history
from edgefd.auditing.attacks.student_models import probabilities, student
from edgefd.auditing.measures.ssim import ssim
from edgefd.auditing.recording.candidates import Candidates, choose
from edgefd.auditing.recording.read import Recording, reports, teacher_after
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import Federation

SOURCES = ("own", "other", "proxy", "planted")
"""sources of images: the client's soft labels; those of another client; the mean of the class's proxy samples; the
client's soft labels, with a private record planted among the proxy samples"""
_LEAST_RECORDS = 5  # members, and non-members, of a class that is compared
_LEAST_ROWS = 20  # soft labels that a client must have sent, for a decoder
_PLANTED = 0.1  # share of a class's rows whose image is replaced by the planted record


def inversion_signals(recording: Recording) -> Arrays:
    """Return reconstructions, one for each client and class, and their similarity to records.

    Returns:
        `client`, `y` int64 [k]; for each of `SOURCES` `<name>` float32 [k, C, H, W] in [0, 1], and `<name>_private`,
        `<name>_unseen` float64 [k]: SSIM to the nearest record of the class that the client trained on, or held out;
        `near_private`, `near_unseen` float32 [k, C, H, W]: the records that are nearest to the image `own`.

    Raises:
        UserError: if there are too few held-out records, see `choose`.
    """
    federation, config = recording.federation, recording.config
    candidates, _ = choose(federation, config.seed)
    teacher = teacher_after(recording, recording.rounds[-1])
    server_probs = probabilities(student(config, federation, 0, teacher, config.seed, 300, 0), federation.proxy.x)
    all_reports = [report for round in recording.rounds for report in reports(recording, round)]
    sent = [history([r for r in all_reports if r.client == c.client], federation.n_classes) for c in federation.clients]
    low, high = float(federation.proxy.x.min()), float(federation.proxy.x.max())
    view = _View(federation, sent, server_probs, unit(federation.proxy.x, low, high), config.seed)
    signals: dict[str, list[Any]] = {}
    for client, knowledge in enumerate(sent):
        if len(knowledge) >= _LEAST_ROWS:
            records = _records(candidates, client, low, high)
            by_class = _reconstruct(view, client, records)
            for c, by_source in by_class.items():
                for name, value in (_compare(by_source, *records[c]) | {"client": client, "y": c}).items():
                    signals.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in signals.items()} or {"client": np.empty(0, np.int64)}


def unit(x: Float32, low: float, high: float) -> Float32:
    """Scale samples to images in [0, 1]."""
    images: Float32 = np.clip((x - low) / ((high - low) or 1), 0, 1).astype(np.float32)
    return images


def _records(candidates: Candidates, client: int, low: float, high: float) -> dict[int, tuple[Float32, Float32]]:
    """Return by class the images that a client trained on, and as many that it held out."""
    by_class = {}
    for c in np.unique(candidates.y[candidates.client == client]).tolist():
        rows = (candidates.client == client) & (candidates.y == c)
        if rows.sum() >= 2 * _LEAST_RECORDS:
            inside, outside = candidates.x[rows & candidates.member], candidates.x[rows & ~candidates.member]
            by_class[c] = unit(inside, low, high), unit(outside, low, high)
    return by_class


@dataclass(frozen=True, eq=False)
class _View:
    """The view of a malicious server, and the seed of the attack."""

    federation: Federation
    sent: list[Knowledge]
    """the history of each client's soft labels"""
    server_probs: Float32
    """outputs of the server's model on the proxy samples"""
    images: Float32
    """the proxy samples as images"""
    seed: int


def _reconstruct(
    view: _View, client: int, records: dict[int, tuple[Float32, Float32]]
) -> dict[int, dict[str, Float32]]:
    """Return by class that the client has the images of all `SOURCES`; empty if no other client has sent anything."""
    federation, sent, server_probs, images = view.federation, view.sent, view.server_probs, view.images
    others = {c: other for c in records if (other := _other_client(federation, sent, client, c)) is not None}
    if not others:
        return {}
    classes = list(others)
    inputs, targets = pairs(sent[client], server_probs), images[sent[client].ids]
    own = [inputs[_most_confident(sent[client], c)] for c in classes]
    of_others = [pairs(sent[other], server_probs)[_most_confident(sent[other], c)] for c, other in others.items()]
    key = (view.seed, Purpose.AUDIT, AuditStream.INVERSION_DECODER, client)
    decoded = decode(inputs, targets, np.stack([*own, *of_others]), make_rng(*key))
    planted = _plant(sent[client], inputs, targets, {c: records[c][0][0] for c in classes})
    control = decode(inputs, planted, np.stack(own), make_rng(*key))
    n_rows = max(1, len(images) // (2 * federation.n_classes))
    by_class = {}
    for i, c in enumerate(classes):
        mean = images[server_probs[:, c].argsort(kind="stable")[-n_rows:]].mean(0)
        by_source = (decoded[i], decoded[len(classes) + i], mean, control[i])
        by_class[c] = dict(zip(SOURCES, by_source, strict=True))
    return by_class


def _plant(sent: Knowledge, inputs: Float32, images: Float32, records: dict[int, Float32]) -> Float32:
    """Replace, for each class, the images whose inputs are nearest to the queried one by a record."""
    planted = images.copy()
    for c, record in records.items():
        nearest = np.abs(inputs - inputs[_most_confident(sent, c)]).sum(1).argsort(kind="stable")
        n_rows = int((sent.values.argmax(1) == c).sum())
        planted[nearest[: max(1, round(_PLANTED * n_rows))]] = record
    return planted


def _other_client(federation: Federation, sent: list[Knowledge], client: int, c: int) -> int | None:
    """Return the next client without the class, or the next one if all have it; None if no other sent anything."""
    n = len(sent)
    eligible = [other for i in range(1, n) if len(sent[other := (client + i) % n])]
    return min(eligible, key=lambda other: bool(federation.table[other, c]), default=None)


def pairs(sent: Knowledge, server_probs: Float32) -> Float32:
    """Return the decoder's input for each row that was sent, float32 [n, 2 C]: the logarithms of both soft labels."""
    both = np.concatenate([sent.values, server_probs[sent.ids]], axis=1)
    logs: Float32 = np.log(np.clip(both, 1e-4, 1)).astype(np.float32)
    return logs


def _most_confident(sent: Knowledge, c: int) -> int:
    """Return the row to which a client gives the largest probability of the class."""
    return int(sent.values[:, c].argmax())


def _compare(by_source: dict[str, Float32], private: Float32, unseen: Float32) -> dict[str, Any]:
    """Return images by source, with their SSIM to the nearest private record and to the nearest held-out one."""
    values: dict[str, Any] = dict(by_source)
    for name, image in by_source.items():
        inside, outside = ssim(image, private), ssim(image, unseen)
        values |= {f"{name}_private": inside.max(), f"{name}_unseen": outside.max()}
        if name == "own":
            values |= {"near_private": private[inside.argmax()], "near_unseen": unseen[outside.argmax()]}
    return values
