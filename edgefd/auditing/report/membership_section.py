"""The sections of the audit page about membership: attacks, planted canaries and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgefd.auditing.report.formats import interval_text
from edgefd.auditing.report.roc_plot import log_roc
from edgefd.auditing.report.verdict import PLANTED, results_on_records
from edgefd.report.html import Table, escape, table_html


def membership_html(result: Mapping[str, Any], keys: Iterator[str]) -> str:
    """Render the attacks on ordinary records, by adversary; empty if there were none."""
    results = results_on_records(result)
    if not results:
        return ""
    claimed = any(r["epsilon"]["claimed"] is not None for r in results)
    claim = (
        "The defence of the run claims the ε in the table." if claimed else "The run has no defence that claims an ε."
    )
    parts = [
        "<h2>Was this record trained on?</h2><p>The members of a client are compared with as many records that it held "
        "out. AUC 0.5 is random guessing, 1 is certainty; intervals are at 95 %. TPR is the share of members that are "
        "found where the given share of non-members is accused: guessing finds as many. Its interval covers the draw "
        "of the members and of the non-members that set the threshold. Of equal scores, a random part is accused. "
        "ε is the "
        f"lower bound from one run (δ = {results[0]['epsilon']['delta']:g}), next to the largest bound that so many "
        f"records could show. {claim}</p>"
    ]
    for adversary in result["adversaries"]:
        of_adversary = [r for r in results if r["adversary"] == adversary]
        if of_adversary:
            parts.append(_adversary_html(adversary, of_adversary, keys))
    return "".join(parts)


def _adversary_html(adversary: str, results: Sequence[Mapping[str, Any]], keys: Iterator[str]) -> str:
    last = max((r["round"] for r in results if r["round"] is not None), default=None)
    shown = sorted((r for r in results if r["round"] in (last, None)), key=lambda r: -r["auc"]["value"])
    several_rounds = len({r["round"] for r in results}) > 1
    return (
        f"<h3>{escape(adversary)}</h3>{_attack_table(shown, f'Attacks by {adversary}')}{_leave_one_out_note(shown)}"
        f"{log_roc(shown, next(keys))}{_rounds_table(results) if several_rounds else ''}{_clients_table(shown[0])}"
    )


def _attack_table(results: Sequence[Mapping[str, Any]], caption: str, first: tuple[str, str] = ("attack", "")) -> str:
    """Render one row for each result; `first` is the field in the first column, and its heading if it differs."""
    head = (
        *(first[1] or first[0], "AUC", "round", "TPR @ 10 %", "@ 1 %", "@ 0.1 %"),
        *("ε claimed", "ε measured ≥", "of at most"),
    )
    reasons = {r["reason"] for result in results for r in result["tpr"].values() if r["tpr"] is None}
    note = f'<p class="note">Not known: {escape("; ".join(sorted(reasons)))}.</p>' if reasons else ""
    return table_html(Table(head, [_attack_row(r, first[0]) for r in results]), caption) + note


def _attack_row(result: Mapping[str, Any], first: str) -> tuple[object, ...]:
    rates = [result["tpr"][name]["tpr"] for name in ("10%", "1%", "0.1%")]
    epsilon = result["epsilon"]
    when = "final" if result["adversary"] == "holder" else "setup" if result["round"] is None else result["round"]
    return (
        result[first],
        interval_text(result["auc"]),
        when,
        *(interval_text(rate) if rate else "not known" for rate in rates),
        "none" if epsilon["claimed"] is None else f"{epsilon['claimed']:g}",
        f"{epsilon['one_run']:.2f}",
        f"{epsilon['largest_possible']:.1f}",
    )


def _leave_one_out_note(results: Sequence[Mapping[str, Any]]) -> str:
    by_attack = [(r["attack"], r["each_shadow_in_turn"]) for r in results if "each_shadow_in_turn" in r]
    if not by_attack:
        return ""
    ranges = "; ".join(f"{name} {min(areas):.3f} to {max(areas):.3f}" for name, areas in by_attack)
    return (
        f'<p class="note">The target is the recorded run. If each of the {len(by_attack[0][1])} shadow federations in '
        f"turn is the target and the other pairs are its shadows, the AUC is: {escape(ranges)}.</p>"
    )


def _rounds_table(results: Sequence[Mapping[str, Any]]) -> str:
    rounds = sorted({r["round"] for r in results if r["round"] is not None})
    names = sorted({r["attack"] for r in results if r["round"] is not None})
    areas = {(r["attack"], r["round"]): r["auc"]["value"] for r in results}
    rows = [(name, *(f"{areas[name, r]:.3f}" if (name, r) in areas else "-" for r in rounds)) for name in names]
    table = Table(("attack", *(f"round {r}" for r in rounds)), rows)
    return "<p>AUC by round:</p>" + table_html(table, "AUC by round")


def _clients_table(best: Mapping[str, Any]) -> str:
    rows = [(r["client"], r["members"], _client_cell(r)) for r in best["clients"]]
    table = Table(("client", "members", "AUC"), rows)
    return f"<p>By client, worst first ({escape(best['attack'])}):</p>" + table_html(table, "AUC by client")


def _client_cell(row: Mapping[str, Any]) -> str:
    """Return the AUC of a client; for few records, also its exact probability without a leak."""
    if row["auc"] is None:
        return str(row["reason"])
    if "p" not in row:
        return interval_text(row["auc"])
    return (
        f"{interval_text(row['auc'])}; by chance so high with probability {row['p']:.2g} (exact; for AUC 1, it is "
        f"{row['least_p']:.2g})"
    )


def user_level_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render what the mean score of several records tells; empty if no attack was run."""
    if not rows:
        return ""
    cells = [
        (
            *(r["adversary"], r["attack"], r["records"], r["member_groups"]),
            *(interval_text(r["auc"]) if r["auc"] else r["reason"], interval_text(r["auc_of_records"])),
        )
        for r in rows
    ]
    head = ("adversary", "attack", "records", "groups of members", "AUC", "AUC of one record")
    return (
        "<h2>Was this person's data trained on?</h2><p>Someone who has several records of a person can average their "
        "scores. Here, records of one client are grouped at random, all of them members or all of them not. The attack "
        "is the one whose AUC on single records is farthest from 0.5, chosen on the same scores, so the figures favour "
        "it a little.</p>" + table_html(Table(head, cells), "Several records together")
    )


def canaries_html(result: Mapping[str, Any], keys: Iterator[str]) -> str:
    """Render what planted canaries show of epsilon; empty if none were planted."""
    planted = [r for r in result["membership"] if r["attack"] == PLANTED]
    if not planted:
        return ""
    return (
        "<h2>What one run with planted canaries shows of ε</h2><p>The federation was run once more. Each client "
        "received fresh records of its classes with a wrong label; for each record, a coin decided whether the client "
        "trains on it. The attack scores the probability of the wrong label. Such records are the easiest to memorise, "
        "so this is not a figure for ordinary records: it bounds the ε of the clients' training from below.</p>"
        + _attack_table(planted, "Planted canaries", ("adversary", "seen by"))
        + log_roc(planted, next(keys), "adversary")
    )


def controls_html(controls: Mapping[str, Any] | None) -> str:
    """Render both controls of every attack; empty if no attack was run."""
    if not controls:
        return ""
    null, positive = controls["null"], controls["positive"]
    rows = [(name, interval_text(null[name]), interval_text(positive[name])) for name in positive]
    level = 1 - controls["null_significance"]
    return (
        "<h2>Controls</h2><p>Null control: the same attack on a model, or a filter, that never saw the records. Its "
        f"interval must cover 0.5 (at {level:.1%}, so that by chance one of the null controls fails in 5 of 100 "
        "audits). Positive control: the same attack on a model that memorised mislabelled records, or on a filter with "
        "shuffled records. Its interval must be above 0.5. If one control fails, the audit is invalid.</p>"
        + table_html(Table(("attack", "null: AUC", "positive: AUC"), rows), "Controls")
    )
