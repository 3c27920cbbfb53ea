"""The verdict on each adversary: what it learns, what guessing would reach, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgefd.auditing.attacks import centroid_distance, insertion
from edgefd.auditing.attacks.membership import FILTER_ATTACKS
from edgefd.auditing.measures.statistics import clopper_pearson
from edgefd.auditing.report.formats import interval_text

WHO = {
    "server": "A malicious server, which chooses proxy samples and reads every report",
    "client": "Another client, which receives the aggregate of all reports",
    "holder": "An adversary with a device's final model and stored state",
    "eavesdropper": "An eavesdropper, where TLS is off",
    "observer": "An observer of the network, who sees only the lengths of messages, also under TLS",
}

PLANTED = "planted"
"""the attack on canaries with a wrong label: it bounds epsilon, and is no measure for ordinary records"""
_ON_FILTERS = {*FILTER_ATTACKS, *insertion.ATTACKS}
_FEWER_CENTROIDS = "lower method.n_clusters, or encrypt the storage of devices"
_NOT_TESTED = "was not tested with the attacks that were requested"
_FEWER = 0.9  # estimated class shares nearer to the truth than this share of the distance of equal shares are a leak


@dataclass(frozen=True)
class Finding:
    """One thing that an adversary learns, or cannot be shown to learn."""

    text: str
    leak: bool
    guessing: str = ""
    """what an adversary without the messages would reach"""
    advice: str = ""
    """what to change in the config, for a leak"""

    def __str__(self) -> str:
        """Return the finding as one line of a terminal."""
        parts = [f"{self.text}."]
        parts += [f"Guessing: {self.guessing}."] if self.guessing else []
        parts += [f"To disclose less: {self.advice}."] if self.leak and self.advice else []
        return " ".join(parts)


def results_on_records(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of attacks on the membership of ordinary records."""
    return [r for r in result["membership"] if r["attack"] != PLANTED]


def verdicts(result: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Return the findings on each audited adversary, leaks first."""
    found = {adversary: sorted(_findings(adversary, result), key=lambda f: not f.leak) for adversary in WHO}
    return {adversary: found[adversary] or [Finding(_NOT_TESTED, False)] for adversary in result["adversaries"]}


def leaking(result: Mapping[str, Any]) -> list[str]:
    """Return the adversaries to which a disclosure was found."""
    return [adversary for adversary, findings in verdicts(result).items() if any(f.leak for f in findings)]


def _findings(adversary: str, result: Mapping[str, Any]) -> Iterator[Finding]:
    exposure = result["exposure"]
    if adversary not in ("holder", "observer") and (ledger := exposure.get("ledger")):
        yield from _raw_records(ledger)
    if adversary in ("server", "eavesdropper") and (labels := exposure.get("labels")):
        yield from _class_shares(labels)
    if adversary == "eavesdropper" and "weight" in (owner := exposure.get("attribution", {})):
        yield _contributors(owner)
    if adversary == "client" and (single := exposure.get("singletons")):
        yield _single_client_aggregates(single)
    if adversary == "holder" and "clusters" in (centroids := exposure.get("centroids", {})):
        yield _centroids(centroids)
    if adversary == "observer" and (sizes := exposure.get("sizes")):
        yield from _message_sizes(sizes)
    yield from _membership(adversary, result)
    yield from _claim(adversary, result)
    yield from _planted(adversary, result)
    if adversary in ("server", "eavesdropper"):
        yield from _models_and_images(result)


def _raw_records(ledger: Mapping[str, Any]) -> Iterator[Finding]:
    n = ledger["raw_records_sent"]
    share = "" if ledger["share"] is None else f" ({ledger['share']:.1%})"
    worst = max(ledger["clients"], key=lambda row: row["raw_records_sent"], default=None)
    most = f"; client {worst['client']} sent most: {worst['raw_records_sent']:,}" if n and worst else ""
    if ledger["of_unknown_clients"]:
        most = "; which client sent which of them is not recorded"
    yield Finding(
        f"receives {n:,} raw private records{share}{most}" if n else "is sent no raw record by the protocol",
        n > 0,
        "0 records" if n else "",
        "set proxy.source=public",
    )
    if copies := ledger.get("exact_copies"):
        yield Finding(
            f"has exact copies of {copies:,} private records that no client contributed, because they are among the "
            f"proxy samples; {_most_copies(ledger, 'exact_copies')}",
            True,
            f"{ledger['fresh_exact_copies']:,} of the fresh records of the control have one",
            "remove these proxy samples: audit.json lists their ids in exposure.ledger.proxy_ids",
        )
    near = ledger.get("private_with_near_copy", 0) - (copies or 0)
    if near and ledger["near_more_than_chance"]:
        yield Finding(
            f"has a near copy of {near:,} private records among the proxy samples that no client contributed; "
            f"{_most_copies(ledger, 'private_with_near_copy')}",
            True,
            f"{ledger['fresh_share_as_near']:.1%} of fresh records have one, and {ledger['near_share']:.1%} of private "
            "ones",
            "remove proxy samples that come from the clients' data",
        )


def _most_copies(ledger: Mapping[str, Any], key: str) -> str:
    worst = max(ledger["clients"], key=lambda row: row[key])
    return f"client {worst['client']} has most of them: {worst[key]:,}"


def _class_shares(labels: Mapping[str, Any]) -> Iterator[Finding]:
    advice = (
        "use a method whose clients answer for all rows (fedmd), or method.weighting=hard, which hides the weights but "
        "not the masks"
    )
    if "reason" in labels:
        yield Finding(
            f"estimates class shares from masks and weights, with unknown accuracy: {labels['reason']}", False
        )
        return
    if area := labels["masks"]["presence_auc"]:
        yield Finding(
            "infers from the filter's masks alone which classes a client has, with AUC "
            f"{interval_text(area)} (95 % interval)",
            area["low"] > 0.5,
            "AUC 0.5",
            advice,
        )
    best = min(("masks", "weights"), key=lambda name: labels[name]["total_variation"])
    distance, uniform = labels[best]["total_variation"], labels[best]["total_variation_of_even_guess"]
    by_client = labels[best]["total_variation_per_client"]
    client = by_client.index(min(by_client))
    yield Finding(
        f"estimates class shares from {best} to within {distance:.2f} (total variation); those of client {client} to "
        f"within {by_client[client]:.2f}",
        distance < _FEWER * uniform,
        f"equal shares are within {uniform:.2f}",
        advice,
    )


def _contributors(owner: Mapping[str, Any]) -> Finding:
    return Finding(
        f"identifies the contributor of a sample with AUC {owner['mask']['value']:.2f} from masks, "
        f"{owner['weight']['value']:.2f} from weights",
        max(owner["mask"]["low"], owner["weight"]["low"]) > 0.5,
        "AUC 0.5",
        "use TLS, or set proxy.source=public",
    )


def _single_client_aggregates(single: Mapping[str, Any]) -> Finding:
    share = single["one_voter"][-1]
    return Finding(
        f"sees the soft label of a single client in {share:.0%} of the aggregate's rows",
        share > 0,
        "0 %, if two clients answer for each row",
        "set aggregator.min_voters=2",
    )


def _centroids(centroids: Mapping[str, Any]) -> Finding:
    n, of = centroids["centroids_that_are_records"], centroids["clusters"]
    nearest, expected = centroids["nearest_is_fitted"], centroids["expected"]
    more = clopper_pearson(round(nearest * of), of)[0] > expected
    worst = max(centroids["per_client"], key=lambda row: row["below_5"])
    small = f"; client {worst['client']} stores most centroids of fewer than 5 records: {worst['below_5']}"
    return Finding(
        f"finds that {n} of {of} stored centroids are equal to private records, and that the record nearest to "
        f"{nearest:.0%} of them is one that they were fitted on{small if worst['below_5'] else ''}",
        n > 0 or more,
        f"0 centroids, and {expected:.0%}",
        _FEWER_CENTROIDS,
    )


def _message_sizes(sizes: Mapping[str, Any]) -> Iterator[Finding]:
    named = {
        "client": "names the client of {:.0%} of the reports by their size, which links the reports of a client",
        "main_class": "names the most frequent class of {:.0%} of the clients by the size of their reports",
    }
    for key, text in named.items():
        if "named" in (found := sizes[key]):
            yield Finding(
                f"{text.format(found['named'])} (p = {found['p']:.3g})",
                found["p"] <= sizes["level"],
                f"{found['chance']:.0%}",
                "use a method whose clients answer for all rows (fedmd), whose reports have nearly one size, or send "
                "reports through a tunnel that pads its packets; edgefd does not pad messages",
            )


def _membership(adversary: str, result: Mapping[str, Any]) -> Iterator[Finding]:
    """Say whether members are told, by the permutation test of all attacks; name the best attack and the worst client.

    The sentence "distinguishes members" needs an adjusted p of at most `level`.
    """
    results = [r for r in results_on_records(result) if r["adversary"] == adversary]
    evidence = result["evidence"].get(adversary)
    if not results or evidence is None:
        return
    best = max(results, key=lambda r: abs(r["auc"]["value"] - 0.5))
    rate = best["tpr"]["1%"]["tpr"]
    figures = f"AUC {interval_text(best['auc'])}"
    figures += f" and finds {interval_text(rate)} of the members at 1 % false positives" if rate else ""
    chance = f"(p = {evidence['p']:.3g}, corrected for {evidence['attacks']} attacks on all clients)"
    guessing = "AUC 0.5; 0.01 of the members at 1 % false positives; ε = 0"
    yield Finding(
        f"distinguishes members from non-members {chance}: {_clearest(evidence)}; the best attack on all clients "
        f"together, {best['attack']}, has {figures} (95 % intervals){_worst_client(evidence)}; ε is at least "
        f"{evidence['epsilon']:.2f} (95 %, δ = {best['epsilon']['delta']:g})"
        if evidence["leak"]
        else f"cannot be shown to distinguish members from non-members {chance}: its best attack, {best['attack']}, "
        f"has {figures} (95 % intervals){_worst_client(evidence)}",
        evidence["leak"],
        guessing,
        _membership_advice(evidence),
    )


def _clearest(evidence: Mapping[str, Any]) -> str:
    """Return the most significant finding in words."""
    found = evidence["found"][0]
    who = "all clients together" if found["client"] is None else f"client {found['client']}"
    if found["kind"] == "auc":
        return f"most clearly {found['attack']} on {who}, AUC {interval_text(found['auc'])}"
    return (
        f"most clearly {found['attack']} on {who}, where {found['members']} of the {found['size']} records with the "
        f"{found['kind']} scores are members"
    )


def _worst_client(evidence: Mapping[str, Any]) -> str:
    worst = evidence["worst_client"]
    if worst is None:
        return ""
    figures = (
        f"AUC {interval_text(worst['auc'])}"
        if worst["kind"] == "auc"
        else f"{worst['members']} members among the {worst['size']} {worst['kind']} scores"
    )
    return f"; worst client: {worst['client']}, by {worst['attack']}, {figures}, p = {worst['p']:.3g}"


def _membership_advice(evidence: Mapping[str, Any]) -> str:
    attacks = {found["attack"] for found in evidence["found"]}
    advice = []
    if attacks & _ON_FILTERS:
        advice.append("set method.weighting=hard or a smaller method.n_clusters (the filter discloses members)")
    if centroid_distance.ATTACK in attacks:
        advice.append(f"{_FEWER_CENTROIDS} (the stored centroids disclose members)")
    if attacks - _ON_FILTERS - {centroid_distance.ATTACK}:
        advice.append(
            "use fewer train.local_steps, more records for the worst client, or a defence: docs/guides/defences.md "
            "(the models disclose members)"
        )
    return "; ".join(advice)


def _claim(adversary: str, result: Mapping[str, Any]) -> Iterator[Finding]:
    for claim in result["claims"]:
        if claim["adversary"] != adversary:
            continue
        yield Finding(
            f"refutes the claimed ε = {claim['claimed']:g}: {claim['attack']} shows that ε is at least "
            f"{claim['measured']:.2f} (95 %, corrected for {claim['attacks']} attacks)"
            if claim["refuted"]
            else f"does not refute the claimed ε = {claim['claimed']:g}: its attacks show at least "
            f"{claim['measured']:.2f} (95 %)",
            claim["refuted"],
            "ε = 0",
            "do not publish this ε: the defence does not hold in this run",
        )


def _planted(adversary: str, result: Mapping[str, Any]) -> Iterator[Finding]:
    for r in result["membership"]:
        if (r["attack"], r["adversary"]) == (PLANTED, adversary):
            bound = r["epsilon"]["one_run"]
            yield Finding(
                f"shows with planted canaries that ε is at least {bound:.2f} (95 %), of at most "
                f"{r['epsilon']['largest_possible']:.1f} that so many canaries can show",
                bound > 0,
                "ε = 0",
                "train with defence.name=dp_sgd",
            )


def _models_and_images(result: Mapping[str, Any]) -> Iterator[Finding]:
    if extraction := result["extraction"]:
        yield Finding(
            f"extracts the clients' models from their soft labels with a fidelity of {extraction['fidelity']:.2f}; "
            f"that of client {extraction['clients'][0]['client']} is the highest: "
            f"{extraction['clients'][0]['fidelity']['value']:.2f}",
            extraction["clients_above_control"] > 0,
            f"{extraction['control_fidelity']:.2f}, by shuffled soft labels",
            "answer for fewer proxy rows, or use defence.name=label_only",
        )
    if "individual" in (inversion := result["inversion"] or {}):
        yield _reconstruction(inversion)


def _reconstruction(inversion: Mapping[str, Any]) -> Finding:
    gain = inversion["individual"]
    text = (
        f"by an SSIM of {interval_text(gain, '+')} (95 % interval) its reconstructions are nearer to private records "
        "than to others of their class"
    )
    worst = max(inversion["clients"], key=lambda row: row["individual"])
    return Finding(
        f"reconstructs from soft labels something of single private records: {text}; most of client {worst['client']}: "
        f"{worst['individual']:+.3f}"
        if inversion["reconstructs"]
        else f"reconstructs from soft labels nothing that can be shown to come from a private record: {text}",
        inversion["reconstructs"],
        "SSIM +0.000",
        "use defence.name=label_only or top_k",
    )
