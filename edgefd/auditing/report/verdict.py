"""The verdict on each adversary: one sentence that states what it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHO = {
    "server": "A malicious server, which chooses proxy samples and reads every report",
    "client": "Another client, which receives the aggregate of all reports",
    "holder": "An adversary with a device's final model and stored state",
    "eavesdropper": "An eavesdropper, where TLS is off",
}

PLANTED = "planted"
"""the attack on canaries with a wrong label: it bounds epsilon, and is no measure for ordinary records"""


def results_on_records(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of attacks on the membership of ordinary records."""
    return [r for r in result["membership"] if r["attack"] != PLANTED]


def verdicts(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict on each audited adversary."""
    return {adversary: f"{WHO[adversary]}, {_learns(adversary, result)}" for adversary in result["adversaries"]}


def _learns(adversary: str, result: Mapping[str, Any]) -> str:
    parts = [*_disclosed(adversary, result["exposure"]), *_membership(adversary, result), *_level_2(adversary, result)]
    return "; ".join(parts) + "." if parts else "was not tested with the attacks that were requested."


def _disclosed(adversary: str, exposure: Mapping[str, Any]) -> list[str]:
    parts = []
    if adversary != "holder" and (ledger := exposure.get("ledger")):
        n = ledger["raw_records_sent"]
        share = "" if ledger["share"] is None else f" ({ledger['share']:.1%})"
        parts.append(f"receives {n:,} raw private records{share}" if n else "receives no raw record")
    if adversary in ("server", "eavesdropper") and (labels := exposure.get("labels")):
        parts += _class_shares(labels)
        if "reason" in labels:
            return parts
    if adversary == "eavesdropper" and "weight" in (owner := exposure.get("attribution", {})):
        mask, weight = owner["mask"]["value"], owner["weight"]["value"]
        parts.append(
            f"identifies the contributor of a sample with AUC {mask:.2f} from masks, {weight:.2f} from weights"
        )
    if adversary == "client" and (single := exposure.get("singletons")):
        parts.append(f"sees the soft label of a single client in {single['one_voter'][-1]:.0%} of the aggregate's rows")
    if adversary == "holder" and "clusters" in (centroids := exposure.get("centroids", {})):
        n, of = centroids["centroids_that_are_records"], centroids["clusters"]
        parts.append(f"finds that {n} of {of} stored centroids are equal to private records")
    return parts


def _class_shares(labels: Mapping[str, Any]) -> list[str]:
    if "reason" in labels:
        return [f"estimates class shares from masks and weights, with unknown accuracy: {labels['reason']}"]
    parts = []
    if area := labels["masks"]["presence_auc"]:
        parts.append(f"infers from the filter's masks alone which classes a client has with AUC {area['value']:.3f}")
    distance = labels["weights"]["total_variation"]
    return [*parts, f"estimates class shares from masks and weights to within {distance:.2f} (total variation)"]


def _membership(adversary: str, result: Mapping[str, Any]) -> list[str]:
    results = [r for r in results_on_records(result) if r["adversary"] == adversary]
    if not results:
        return []
    best = max(results, key=lambda r: r["auc"]["value"])
    area = best["auc"]
    text = f"AUC {area['value']:.3f} (95 % interval {area['low']:.3f} to {area['high']:.3f})"
    if area["low"] <= 0.5:
        return [
            f"cannot be shown to distinguish members from non-members: its best attack, {best['attack']}, has {text}"
        ]
    return [f"distinguishes members from non-members with {text} by its best attack, {best['attack']}"]


def _level_2(adversary: str, result: Mapping[str, Any]) -> list[str]:
    parts = [
        f"shows with planted canaries that ε is at least {r['epsilon']['one_run']:.2f} (95 %)"
        for r in result["membership"]
        if (r["attack"], r["adversary"]) == (PLANTED, adversary)
    ]
    if adversary in ("server", "eavesdropper") and (extraction := result["extraction"]):
        parts.append(
            f"extracts the clients' models from their soft labels with a fidelity of {extraction['fidelity']:.2f}, of "
            f"which shuffled soft labels reach {extraction['control_fidelity']:.2f}"
        )
    if adversary in ("server", "eavesdropper") and "individual" in (inversion := result["inversion"] or {}):
        parts.append(_reconstruction(inversion))
    return parts


def _reconstruction(inversion: Mapping[str, Any]) -> str:
    gain = inversion["individual"]
    text = (
        f"by an SSIM of {gain['value']:+.3f} (95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}) its "
        "reconstructions are nearer to private records than to others of their class"
    )
    if inversion["reconstructs"]:
        return f"reconstructs from soft labels something of single private records: {text}"
    return f"reconstructs from soft labels nothing that can be shown to come from a private record: {text}"
