"""Summaries of a run: the contents of summary.json and partition.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgefd.defences.apply import claim
from edgefd.federation.clients import ClientData, Federation
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.records import Summary
from edgefd.runs.round_metrics import RoundMetrics


def partition_record(federation: Federation, members: bool = False) -> dict[str, Any]:
    """Return partition.json: how many samples of each class each client holds and contributed.

    With `members`, it also lists which samples these are.
    """
    return {
        "clients": [
            {
                "client": data.client,
                "samples_by_class": federation.table[data.client].tolist(),
                "train": len(data.x),
                "heldout": len(data.x_heldout),
                "contributed": len(data.contributed),
                **(members_of(data) if members else {}),
            }
            for data in federation.clients
        ],
        "proxy": len(federation.proxy),
        "proxy_sha256": federation.proxy.sha256,
        "test": len(federation.x_test),
    }


def members_of(data: ClientData) -> dict[str, list[int]]:
    """Return the rows of the training set that a client trains on and holds out, and its contributed proxy rows."""
    rows_by_name = {"train_rows": data.rows, "heldout_rows": data.heldout_rows, "contributed_ids": data.contributed}
    return {name: rows.tolist() for name, rows in rows_by_name.items() if rows is not None}


def summarise(prepared: PreparedRun, rounds: list[RoundMetrics], seconds: float) -> dict[str, Any]:
    """Return summary.json. Accuracies are those of the final round, never those of the best round."""
    config, federation = prepared.config, prepared.federation
    measured = [m for m in rounds if m.accuracy_mean is not None]
    exchanged = [m for m in rounds if not m.closing]
    heldout = [m for m in rounds if m.heldout_accuracy_mean is not None]
    last, final = exchanged[-1], (measured[-1] if measured else None)
    privacy = claim(config.defence)
    values: dict[str, Any] = {
        "method": config.method_name,
        "dataset": prepared.dataset.name,
        "scenario": config.partition.name,
        "seed": config.seed,
        "rounds": len(exchanged),
        "complete": rounds[-1].closing,
        "n_clients": len(federation.clients),
        "accuracy_mean": final.accuracy_mean if final else None,
        "accuracy_worst": final.accuracy_worst if final else None,
        "accuracy_per_client": final.accuracy_per_client if final else None,
        "heldout_accuracy_mean": heldout[-1].heldout_accuracy_mean if heldout else None,
        "bytes_up": sum(m.bytes_up for m in rounds),
        "bytes_down": sum(m.bytes_down for m in rounds),
        "bytes_once": bytes_once(prepared),
        "seconds_total": seconds,
        "seconds_per_round": sum(m.seconds for m in rounds) / len(rounds),
        "kept_fraction": last.kept_fraction,
        "wrong_claims": last.wrong_claims,
        "teacher_coverage": last.teacher_coverage,
        "teacher_accuracy": last.teacher_accuracy,
        "teacher_ece": last.teacher_ece,
        "ece_mean": final.ece_mean if final else None,
        "agreement_mean": final.agreement_mean if final else None,
        "proxy_labels_used": config.method.proxy_labels,
        "raw_samples_disclosed": federation.raw_samples_disclosed,
        "epsilon_claimed": None if privacy is None else privacy[0],
        "delta_claimed": None if privacy is None else privacy[1],
        "data_source": prepared.dataset.source,
        "data_samples": len(prepared.dataset.x_train) + len(prepared.dataset.x_test),
        "data_sha256": prepared.dataset.sha256,
    }
    return asdict(Summary(**values))


def bytes_once(prepared: PreparedRun) -> int:
    """Return the bytes of raw samples sent before round 0: contributions up, the proxy set down to every client."""
    sample = int(prepared.dataset.x_train[0].nbytes)
    up = prepared.federation.raw_samples_disclosed * sample
    down = len(prepared.federation.clients) * len(prepared.federation.proxy) * sample
    return up + (down if prepared.config.method.uses_proxy else 0)
