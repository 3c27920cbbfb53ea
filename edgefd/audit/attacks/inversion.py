"""Paired-logits inversion: can who reads a client's reports draw images that look like its private ones?

A decoder learns, from the proxy samples, which image belongs to a pair of answers: the client's soft label, and that of
a model which the server distils from the last teacher. For each class that the client has, it is then given the pair of
which the client is surest, and draws an image (after Takahashi, Liu and Liu, "Breaching FedMD", CVPR 2023).

A drawing of a 1 looks like every 1. So it is compared with two sets of records of its class, equally large, that
nothing but a draw of lots sets apart: those that the client trained on, and those that it held out. Only where it is
more like the nearest of the first is anything of a record in it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from edgefd.audit.attacks.extraction import history
from edgefd.audit.attacks.student_models import probabilities, student
from edgefd.audit.measures.ssim import WINDOW, ssim
from edgefd.audit.measures.statistics import mean_interval
from edgefd.audit.recording.candidates import Candidates, choose
from edgefd.audit.recording.read import Recording, reports, teacher_after
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import Federation

DRAWINGS = ("own", "other", "proxy", "planted")
"""From the client's answers; from another client's; the proxy samples' mean; with a private record among the samples"""
_LEAST_RECORDS = 5  # of a class, members and non-members, to be compared with
_LEAST_DRAWINGS = 8  # with fewer, an interval is too wide for the positive control
_LEAST_ROWS = 20  # that a client must have answered for, for a decoder
_PLANTED = 0.1  # of a class's rows whose image is the planted record
_NULL_SIGNIFICANCE = 0.01
_HIDDEN = 256
_STEPS = 600
_BATCH = 32
_LR = 0.002


def impossible(federation: Federation) -> str | None:
    """Why images cannot be drawn from this federation's answers, if they cannot."""
    shape = federation.proxy.x.shape[1:]
    if len(shape) != 3 or min(shape[1:]) < WINDOW:
        return f"it draws images of {WINDOW} x {WINDOW} pixels or more, and samples here are of shape {list(shape)}"
    if len(federation.clients) < 2:
        return "a control is drawn from another client's answers, and there is none"
    if federation.kept:
        return "proxy.keep: private records are among the proxy samples, so there is nothing left to draw"
    return None


def inversion_signals(recording: Recording) -> Arrays:
    """Drawings, one for each client and class, and how like records they are.

    Returns:
        `client`, `y` int64 [k]; for each of `DRAWINGS` `<name>` float32 [k, C, H, W] in [0, 1], and `<name>_private`,
        `<name>_unseen` float64 [k]: SSIM to the nearest record of the class that the client trained on, or held out;
        `near_private`, `near_unseen` float32 [k, C, H, W]: those that the own drawing is nearest to.

    Raises:
        UserError: if there are too few held-out records, see `choose`.
    """
    federation, config = recording.federation, recording.config
    candidates, _ = choose(federation, config.seed)
    teacher = teacher_after(recording, recording.rounds[-1])
    servers = probabilities(student(config, federation, 0, teacher, config.seed, 300, 0), federation.proxy.x)
    every = [report for round in recording.rounds for report in reports(recording, round)]
    sent = [history([r for r in every if r.client == c.client], federation.n_classes) for c in federation.clients]
    low, high = float(federation.proxy.x.min()), float(federation.proxy.x.max())
    images = unit(federation.proxy.x, low, high)
    found: dict[str, list[Any]] = {}
    for client, knowledge in enumerate(sent):
        if len(knowledge) >= _LEAST_ROWS:
            records = _records(candidates, client, low, high)
            drawn = _drawings(federation, sent, servers, images, client, records, config.seed)
            for c, drawing in drawn.items():
                for name, value in (_compared(drawing, *records[c]) | {"client": client, "y": c}).items():
                    found.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in found.items()} or {"client": np.empty(0, np.int64)}


def unit(x: Float32, low: float, high: float) -> Float32:
    """Samples as images in [0, 1]."""
    out: Float32 = np.clip((x - low) / ((high - low) or 1), 0, 1).astype(np.float32)
    return out


def _records(candidates: Candidates, client: int, low: float, high: float) -> dict[int, tuple[Float32, Float32]]:
    """By class, images that a client trained on, and as many that it held out."""
    out = {}
    for c in np.unique(candidates.y[candidates.client == client]).tolist():
        rows = (candidates.client == client) & (candidates.y == c)
        if rows.sum() >= 2 * _LEAST_RECORDS:
            inside, outside = candidates.x[rows & candidates.member], candidates.x[rows & ~candidates.member]
            out[c] = unit(inside, low, high), unit(outside, low, high)
    return out


def _drawings(
    federation: Federation,
    sent: list[Knowledge],
    servers: Float32,
    images: Float32,
    client: int,
    records: dict[int, tuple[Float32, Float32]],
    seed: int,
) -> dict[int, dict[str, Float32]]:
    """By class that the client has, the drawings of `DRAWINGS`. Of clients without enough answers there are none."""
    asked = {c: other for c in records if (other := _another(federation, sent, client, c)) is not None}
    if not asked:
        return {}
    classes = list(asked)
    mine, shown = pairs(sent[client], servers), images[sent[client].ids]
    own = np.stack([mine[_surest(sent[client], c)] for c in classes])
    theirs = np.stack([pairs(sent[other], servers)[_surest(sent[other], c)] for c, other in asked.items()])
    drawn = decoded(
        mine, shown, np.concatenate([own, theirs]), make_rng(seed, Purpose.AUDIT, AuditStream.INVERSION_DECODER, client)
    )
    planted = _planted(sent[client], mine, shown, {c: records[c][0][0] for c in classes})
    control = decoded(mine, planted, own, make_rng(seed, Purpose.AUDIT, AuditStream.INVERSION_DECODER, client))
    usual = max(1, len(images) // (2 * federation.n_classes))
    out = {}
    for i, c in enumerate(classes):
        mean = images[servers[:, c].argsort(kind="stable")[-usual:]].mean(0)
        out[c] = dict(zip(DRAWINGS, (drawn[i], drawn[len(classes) + i], mean, control[i]), strict=True))
    return out


def _planted(sent: Knowledge, given: Float32, images: Float32, records: dict[int, Float32]) -> Float32:
    """The images with a record in place of those whose answers are most like the one asked about, for each class."""
    out = images.copy()
    for c, record in records.items():
        nearest = np.abs(given - given[_surest(sent, c)]).sum(1).argsort(kind="stable")
        called = int((sent.values.argmax(1) == c).sum())
        out[nearest[: max(1, round(_PLANTED * called))]] = record
    return out


def _another(federation: Federation, sent: list[Knowledge], client: int, c: int) -> int | None:
    """The next client that was never dealt the class; where all were, the next client. None has answered: None."""
    n = len(sent)
    able = [other for i in range(1, n) if len(sent[other := (client + i) % n])]
    return min(able, key=lambda other: bool(federation.table[other, c]), default=None)


def pairs(sent: Knowledge, servers: Float32) -> Float32:
    """What a decoder is given of each row that was answered for, float32 [n, 2 C]: logs of both soft labels."""
    both = np.concatenate([sent.values, servers[sent.ids]], axis=1)
    out: Float32 = np.log(np.clip(both, 1e-4, 1)).astype(np.float32)
    return out


def _surest(sent: Knowledge, c: int) -> int:
    """The row that a client is surest is of the class."""
    return int(sent.values[:, c].argmax())


def decoded(given: Float32, images: Float32, asked: Float32, rng: np.random.Generator) -> Float32:
    """Images [k, C, H, W] that a decoder draws for what it is asked [k, d], trained on what belongs together.

    The decoder: two hidden layers, sigmoid at the end, least squares, Adam. Inputs are standardised as in training.
    """
    import torch
    from torch import nn

    mean, std = given.mean(0), given.std(0) + 1e-3
    x, y = torch.from_numpy((given - mean) / std), torch.from_numpy(images.reshape(len(images), -1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        layers = [nn.Linear(x.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
        decoder = nn.Sequential(*layers, nn.Linear(_HIDDEN, y.shape[1]), nn.Sigmoid())
    optimizer = torch.optim.Adam(decoder.parameters(), lr=_LR)
    for _ in range(_STEPS):
        rows = torch.from_numpy(rng.integers(len(given), size=_BATCH))
        optimizer.zero_grad()
        nn.functional.mse_loss(decoder(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        drawn: Float32 = decoder(torch.from_numpy((asked - mean) / std)).numpy()
    return drawn.reshape(-1, *images.shape[1:])


def _compared(drawing: dict[str, Float32], private: Float32, unseen: Float32) -> dict[str, Any]:
    out: dict[str, Any] = dict(drawing)
    for name, image in drawing.items():
        inside, outside = ssim(image, private), ssim(image, unseen)
        out |= {f"{name}_private": inside.max(), f"{name}_unseen": outside.max()}
        if name == "own":
            out |= {"near_private": private[inside.argmax()], "near_unseen": unseen[outside.argmax()]}
    return out


def inversion(s: Arrays) -> tuple[dict[str, Any], list[str]]:
    """What the drawings show, and which control failed. All differences are paired, over clients and classes.

    `individual`: SSIM to the nearest private record, less that to the nearest one that nobody trained on; with t's 95 %
    interval. `over_proxy`, `over_other`: to the nearest private record, less what the mean of the class's proxy
    samples, or the drawing from another client's answers, reaches. Null control: `individual` of the proxy mean, in
    which there is nothing private: its 99 % interval must cover 0. Positive control: `individual` where the decoder was
    shown a private record in place of a tenth of the class's samples: above 0.
    """
    drawings = len(s["client"])
    if drawings < _LEAST_DRAWINGS:
        return {"reason": f"{drawings} images can be drawn and compared, {_LEAST_DRAWINGS} are needed"}, []
    gain = {name: s[f"{name}_private"] - s[f"{name}_unseen"] for name in DRAWINGS}
    null = mean_interval(gain["proxy"], _NULL_SIGNIFICANCE)
    positive = mean_interval(gain["planted"])
    failed = []
    if not null.low <= 0 <= null.high:
        failed.append(f"null control: inversion finds records where there are none (SSIM {null.value:+.3f})")
    if not positive.low > 0:
        failed.append(f"positive control: inversion does not draw what was planted (SSIM {positive.value:+.3f})")
    individual = mean_interval(gain["own"])
    return {
        "drawings": drawings,
        "ssim_private": float(s["own_private"].mean()),
        "ssim_unseen": float(s["own_unseen"].mean()),
        "individual": asdict(individual),
        "reconstructs": individual.low > 0,
        "over_proxy": asdict(mean_interval(s["own_private"] - s["proxy_private"])),
        "over_other": asdict(mean_interval(s["own_private"] - s["other_private"])),
        "null": asdict(null),
        "null_significance": _NULL_SIGNIFICANCE,
        "positive": asdict(positive),
        "clients": [_client_row(s, gain["own"], int(c)) for c in np.unique(s["client"])],
    }, failed


def _client_row(s: Arrays, gain: np.ndarray, client: int) -> dict[str, Any]:
    mine: Int64 = np.flatnonzero(s["client"] == client)
    return {
        "client": client,
        "classes": s["y"][mine].tolist(),
        "ssim_private": s["own_private"][mine].tolist(),
        "ssim_unseen": s["own_unseen"][mine].tolist(),
        "individual": float(gain[mine].mean()),
    }
