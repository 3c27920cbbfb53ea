"""Benchmark of the private images that a hostile coordinator reads through graphs that a device knows.

Run: python -m benchmarks.hostile_coordinator (one minute)
The coordinator chooses everything that a bundle may hold besides its graphs: the model `linear` with parameters of
zero, plain terms, and proxy rows of its own. One training step makes the parameters of a class the sum of its images in
the batch, and each proxy row reads one pixel of each sum. docs/reference/threat-model.md quotes the table.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgefd_client.agent import method_of
from edgefd_client.inspect_bundle import bits_a_row
from edgefd_client.sources import NpzSource, client_data, read_samples
from edgefd_client.trust import read_trusted_bundle

from edgefd.config.load import parse_config
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import client_context
from edgefd.federation.plan import RoundPlan
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.rounds.client import client_filter, client_round
from edgefd.runs.export_bundle import export_config
from edgefd.runs.prepare import prepare
from edgefd.simulation.client_files import export_client_data
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.codecs import NUMBER_CODECS

CLIENTS = 3


@dataclass(frozen=True)
class Attack:
    """The choices of the coordinator."""

    name: str
    method: dict[str, Any]
    batch: int
    lr: float
    step: float
    """how much brighter the read pixel of a proxy row is than that of the row without"""
    typical: bool = False
    """whether proxy rows are a typical image with one brighter pixel; False = black with one pixel"""


EDGEFD = {"name": "edgefd", "n_clusters": 4}
WIDE = {**EDGEFD, "quantile": 1.0, "reference": "none", "weighting": "hard"}
ATTACKS = [
    Attack("fedmd, a step of 1 row (a device refuses it)", {"name": "fedmd"}, 1, 1.0, 1.0),
    Attack("fedmd, a step of 8 rows", {"name": "fedmd"}, 8, 8.0, 1.0),
    Attack("fedmd, a step of 64 rows", {"name": "fedmd"}, 64, 64.0, 1.0),
    Attack("edgefd as it is, a step of 8 rows", EDGEFD, 8, 8.0, 1.0),
    Attack("edgefd as it is, typical proxy rows", EDGEFD, 8, 0.05, 4.0, typical=True),
    Attack("edgefd that accepts more, typical proxy rows", WIDE, 8, 0.05, 4.0, typical=True),
]


def main() -> None:
    """Run each attack on one device, and print what comes out."""
    print("| attack | rows answered | bits a row | images that come out exactly | best correlation with one image |")
    print("| --- | --- | --- | --- | --- |")
    for attack in ATTACKS:
        with tempfile.TemporaryDirectory(prefix="edgefd-") as folder:
            print(f"| {attack.name} | {' | '.join(outcome(attack, Path(folder)))} |", flush=True)


def outcome(attack: Attack, folder: Path) -> list[str]:
    """Return what the coordinator learns from the first report of a device."""
    bundle, data = federation(attack, folder)
    shape = bundle.manifest.shape
    size = int(np.prod(shape))
    base = data.x.mean(0).reshape(-1) if attack.typical else np.zeros(size)  # a real attacker takes public images
    rows = np.concatenate([base[None], base + attack.step * np.eye(size)]).astype(np.float32)
    answer = first_report(attack, bundle, data, rows.reshape(-1, *shape))
    logs = np.full((len(rows), bundle.manifest.n_classes), np.nan)
    logs[answer.ids] = np.log(np.maximum(answer.values.astype(np.float64), 1e-7))
    logs -= logs.mean(1, keepdims=True)
    sums = (logs[1:] - logs[0]).T * attack.batch / (attack.lr * attack.step)  # S_c - S / C, by class
    exact, best = compared(without_rest(np.nan_to_num(sums)), data, bundle)
    return [f"{len(answer)} of {len(rows)}", str(bits_a_row(bundle)), str(exact), f"{best:.3f}"]


def without_rest(sums: np.ndarray) -> np.ndarray:
    """Return the sum of each class from sums that lack the same S / C: classes without an image have equal rows."""
    distances = np.linalg.norm(sums[:, None] - sums[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    out: np.ndarray = sums - sums[distances.min(1).argmin()]
    return out


def federation(attack: Attack, folder: Path) -> tuple[Bundle, ClientData]:
    """Export a federation, and return its bundle and the data of its first client."""
    config = parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "iid", "n_clients": CLIENTS},
            "model": {"name": "linear"},
            "method": attack.method,
            "train": {"optimizer": "sgd", "batch_size": 64, "local_steps": 1, "adjusted_steps": 0, "lr": attack.lr},
        }
    )
    export_config(config, None, folder / "bundle")
    files = list(export_client_data(prepare(config), folder / "data"))
    bundle = read_trusted_bundle(folder / "bundle", None)
    data = client_data(read_samples(NpzSource(files[0]), bundle), bundle, 0)
    return bundle, dataclasses.replace(data, contributed=np.empty(0, np.int64), contributed_y=None)


def first_report(attack: Attack, bundle: Bundle, data: ClientData, rows: np.ndarray) -> Knowledge:
    """Return what a device answers in round 0, after it has crossed the wire."""
    terms = bundle.manifest.terms
    training = dataclasses.replace(terms.training, batch_size=attack.batch, private_rows_per_batch=0)
    terms = dataclasses.replace(terms, training=training)
    proxy, (method, config) = ProxySet(rows, np.full(len(rows), -1)), method_of(bundle)
    learner = OnnxLearner(Sessions(bundle.graphs), {name: np.zeros_like(v) for name, v in bundle.init.items()})
    acceptance = client_filter(method, config, data, proxy, terms)
    ctx = client_context(data, learner, proxy, acceptance, terms, config)
    ctx = dataclasses.replace(ctx, plan=RoundPlan(0, np.arange(len(rows)), evaluate=False))
    report = client_round(method, ctx, None)
    codec = NUMBER_CODECS[terms.codec]
    values = codec.decode(codec.encode(report.knowledge.values), report.knowledge.values.size)
    return dataclasses.replace(report.knowledge, values=values.reshape(report.knowledge.values.shape))


def compared(sums: np.ndarray, data: ClientData, bundle: Bundle) -> tuple[int, float]:
    """Return how many sums are private images, pixel by pixel, and the largest correlation with one image."""
    mean, std = bundle.manifest.scale
    private = data.x.reshape(len(data.x), -1).astype(np.float64)
    pixels = {image.tobytes() for image in np.rint(private * std + mean).astype(np.int64)}
    exact = sum(image.tobytes() in pixels for image in np.rint(sums * std + mean).astype(np.int64))
    varied = sums[sums.std(1) > 0]
    best = max((float(np.corrcoef(row, private)[0, 1:].max()) for row in varied), default=0.0)
    return exact, best


if __name__ == "__main__":
    main()
