"""What the figures mean, one sentence an adversary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHO = {
    "server": "A malicious server, which chooses proxy samples and reads every answer",
    "client": "Another client, which sees the aggregate of all answers",
    "holder": "Who holds a device's final model and stored state",
    "eavesdropper": "An eavesdropper, where TLS is off",
}


PLANTED = "planted"
"""the attack whose records are canaries, with a wrong label: it bounds epsilon, and says nothing of ordinary records"""


def records(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was found of ordinary records' membership."""
    return [f for f in result["membership"] if f["attack"] != PLANTED]


def verdicts(result: Mapping[str, Any]) -> dict[str, str]:
    """By adversary, for those that were audited."""
    return {who: f"{WHO[who]}, {_learns(who, result)}" for who in result["adversaries"]}


def _learns(who: str, result: Mapping[str, Any]) -> str:
    parts = [
        text for text in (*_disclosed(who, result["exposure"]), _member(who, result), *_level_2(who, result)) if text
    ]
    return "; ".join(parts) + "." if parts else "was not tested with the attacks that were asked for."


def _disclosed(who: str, found: Mapping[str, Any]) -> list[str]:
    out = []
    if who != "holder" and (ledger := found.get("ledger")):
        n = ledger["raw_records_sent"]
        share = "" if ledger["share"] is None else f" ({ledger['share']:.1%})"
        out.append(f"gets {n:,} raw private records{share}" if n else "gets no raw record")
    if who in ("server", "eavesdropper") and (labels := found.get("labels")):
        if "reason" in labels:
            return [*out, f"estimates class shares from masks and weights, how well is not known: {labels['reason']}"]
        area = labels["masks"]["presence_auc"]
        if area:
            out.append(f"tells from the filter's masks alone which classes a client has with AUC {area['value']:.3f}")
        tv = labels["weights"]["total_variation"]
        out.append(f"estimates class shares from masks and weights to within {tv:.2f} (total variation)")
    if who == "eavesdropper" and "weight" in (owner := found.get("attribution", {})):
        mask, weight = owner["mask"]["value"], owner["weight"]["value"]
        out.append(f"tells who contributed a sample with AUC {mask:.2f} from masks, {weight:.2f} from weights")
    if who == "client" and (alone := found.get("singletons")):
        out.append(f"is shown single clients' answers in {alone['one_voter'][-1]:.0%} of the aggregate's rows")
    if who == "holder" and "clusters" in (centroids := found.get("centroids", {})):
        n, of = centroids["centroids_that_are_records"], centroids["clusters"]
        out.append(f"finds {n} of {of} stored centroids that are private records themselves")
    return out


def _member(who: str, result: Mapping[str, Any]) -> str:
    mine = [f for f in records(result) if f["adversary"] == who]
    if not mine:
        return ""
    best = max(mine, key=lambda f: f["auc"]["value"])
    a = best["auc"]
    telling = f"AUC {a['value']:.3f} (95 % interval {a['low']:.3f} to {a['high']:.3f})"
    if a["low"] <= 0.5:
        return f"cannot be shown to tell members from others: the best of its attacks, {best['attack']}, has {telling}"
    return f"tells members from others with {telling} by its best attack, {best['attack']}"


def _level_2(who: str, result: Mapping[str, Any]) -> list[str]:
    out = [
        f"shows from planted canaries that ε is at least {f['epsilon']['one_run']:.2f} (95 %)"
        for f in result["membership"]
        if (f["attack"], f["adversary"]) == (PLANTED, who)
    ]
    if who in ("server", "eavesdropper") and (copies := result["extraction"]):
        out.append(
            f"copies clients' models from their soft labels with a fidelity of {copies['fidelity']:.2f}, of which "
            f"shuffled soft labels reach {copies['control_fidelity']:.2f}"
        )
    if who in ("server", "eavesdropper") and "individual" in (drawn := result["inversion"] or {}):
        out.append(_drawn(drawn))
    return out


def _drawn(found: Mapping[str, Any]) -> str:
    gain = found["individual"]
    telling = (
        f"by an SSIM of {gain['value']:+.3f} (95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}) its drawings "
        "are nearer to private records than to others of their class"
    )
    if found["reconstructs"]:
        return f"draws something of single private records from soft labels: {telling}"
    return f"draws from soft labels nothing that can be shown to be of a private record: {telling}"
