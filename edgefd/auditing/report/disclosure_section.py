"""The sections of the audit page about what is disclosed without an attack on a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefd.auditing.report.formats import interval_text
from edgefd.report.html import Table, escape, table_html


def disclosure_html(exposure: Mapping[str, Any]) -> str:
    """Render a section for each part that was analysed."""
    sections = {
        "ledger": ("Raw records", _raw_records),
        "labels": ("Which classes a client has", _label_inference),
        "attribution": ("Who contributed a proxy sample", _attribution),
        "singletons": ("Aggregates of one client", _single_client_aggregates),
        "centroids": ("Stored centroids", _stored_centroids),
        "sizes": ("Sizes of reports", _message_sizes),
    }
    return "".join(
        f"<h2>{heading}</h2>{render(exposure[name])}"
        for name, (heading, render) in sections.items()
        if exposure.get(name)
    )


def _raw_records(ledger: Mapping[str, Any]) -> str:
    recipients = f" They went to {ledger['to']}, {ledger['when']}." if ledger["to"] else ""
    sent = f"{ledger['raw_records_sent']:,} raw private records"
    if ledger["share"] is None:
        rows: list[tuple[object, ...]] = [(r["client"], r["raw_records_sent"]) for r in ledger["clients"]]
        table = Table(("client", "raw records sent"), rows)
        return f"<p>{sent} left their clients.{escape(recipients)}</p>" + table_html(table, "Raw records by client")
    rows = [
        (
            *(r["client"], r["raw_records_sent"], f"{r['share']:.1%}", r["private_records"]),
            *(r["private_with_near_copy"], r["exact_copies"]),
        )
        for r in ledger["clients"]
    ]
    table = Table(("client", "raw records sent", "share", "training records", "with a near copy", "exact copies"), rows)
    return (
        f"<p>{sent} ({ledger['share']:.1%}) left their clients.{escape(recipients)} Private records that are equal to "
        f"a proxy sample that no client contributed: {ledger['exact_copies']:,}. Training records that "
        f"did not leave but have a near copy among the proxy samples: {ledger['private_with_near_copy']:,}. A copy is "
        "near if its distance is less than half of the usual one in its class; by chance, this holds for "
        f"{ledger['fresh_share_as_near']:.1%} of fresh records.</p>" + table_html(table, "Raw records by client")
    )


def _label_inference(labels: Mapping[str, Any]) -> str:
    if "reason" in labels:
        shares = labels["estimated_shares"]
        estimates = [(client, *(f"{share:.2f}" for share in row)) for client, row in enumerate(shares)]
        table = Table(("client", *(f"class {c}" for c in range(len(shares[0])))), estimates)
        return (
            f"<p>Estimated from the weights. The accuracy of the estimate is not known: {escape(labels['reason'])}.</p>"
            + table_html(table, "Estimated class shares")
        )
    rows = []
    for name in ("masks", "weights", "soft_labels"):
        row = labels[name]
        presence = interval_text(row["presence_auc"]) if row["presence_auc"] else row["presence_reason"]
        rows.append((name.replace("_", " "), presence, f"{row['total_variation']:.3f}", f"{row['kl']:.3f}"))
    uniform = labels["masks"]["total_variation_of_even_guess"]
    return (
        "<p>Estimated from what the client sends, by an adversary who sees the proxy samples. Total variation is the "
        f"distance to the true class shares; a guess of equal shares has {uniform:.3f}.</p>"
        + table_html(
            Table(("from", "class present: AUC", "total variation", "KL"), rows, (1,)), "Estimates of class shares"
        )
    )


def _attribution(attribution: Mapping[str, Any]) -> str:
    if reason := attribution.get("reason"):
        return f"<p>{escape(reason)}</p>"
    return (
        f"<p>From the mask: AUC {interval_text(attribution['mask'])}. "
        f"From the weights: {interval_text(attribution['weight'])}.</p>"
    )


def _single_client_aggregates(shares: Mapping[str, Any]) -> str:
    return (
        "<p>Where only one client sends a soft label for a proxy sample, the aggregate is that soft label. In the last "
        f"round, this holds for {shares['one_voter'][-1]:.1%} of the rows; for {shares['at_most_two'][-1]:.1%}, at "
        "most two clients send one.</p>"
    )


def _stored_centroids(centroids: Mapping[str, Any]) -> str:
    if reason := centroids.get("reason"):
        return f"<p>{escape(reason)}</p>"
    return (
        f"<p>{centroids['clusters']} centroids, which stay on the devices. {centroids['clusters_below_5']} of them "
        f"represent fewer than 5 records, {centroids['centroids_that_are_records']} are equal to a record. For "
        f"{centroids['nearest_is_fitted']:.1%} of the centroids, the nearest record is one that they were fitted on, "
        f"not a held-out one; if centroids disclosed nothing, the share would be {centroids['expected']:.1%}.</p>"
    )


def _message_sizes(sizes: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{found['named']:.1%}", f"{found['chance']:.1%}", found["of"], f"{found['p']:.3g}")
        if "named" in found
        else (name, found["reason"], "-", "-", "-")
        for name, found in (("client", sizes["client"]), ("most frequent class", sizes["main_class"]))
    ]
    return (
        "<p>TLS does not hide how long a message is. The client of a report is guessed from the client whose earlier "
        "reports had the nearest size, and the most frequent class of a client from the client with the nearest mean "
        "size.</p>"
        + table_html(Table(("guessed", "right", "by chance", "of", "p"), rows), "What the sizes of reports tell")
    )
