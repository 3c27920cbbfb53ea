"""audit.html: one file that opens anywhere, for a reviewer who has never seen federated distillation."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefd.audit.recording.signal_store import Arrays
from edgefd.audit.report.image_grid import grid
from edgefd.audit.report.roc_plot import STYLE, log_roc
from edgefd.audit.report.verdict import PLANTED, records, verdicts

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.2rem 0 .5rem}
.sub,figcaption,.note{color:#5a6474;font-size:.9rem}
.state{padding:.6rem .9rem;border-left:5px solid #2a7f4f;background:#eef7f1}
.state.bad{border-color:#b3261e;background:#fdeeed}
dt{font-weight:600;margin-top:.7rem}dd{margin:0}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin:.6rem 0}
th,td{padding:.28rem .5rem;border-bottom:1px solid #e2e6ec;text-align:right;white-space:nowrap}
th:first-child,td:first-child,th.t,td.t{text-align:left}td.w{white-space:normal;color:#5a6474}
.wide{overflow-x:auto}figure{margin:1rem 0}svg{max-width:100%;height:auto}
code{background:#f2f4f7;padding:.1rem .3rem;border-radius:3px;overflow-wrap:anywhere}
"""
_INTRODUCTION = (
    "<p>In federated distillation, clients keep their records and send <em>soft labels</em>: class probabilities that "
    "their own model gives to shared <em>proxy samples</em>. With EdgeFD each client first decides which of them look "
    "like its own data and answers only for those; which ones it answers for is its <em>mask</em>, and how surely its "
    "<em>weights</em>. This page says what those messages give away.</p>"
)


def page(result: Mapping[str, Any], drawn: Arrays) -> str:
    """The whole page; `drawn`: what `inversion_signals` returns, or nothing."""
    title = f"Privacy audit: {result['method']} on {result['dataset']}, {result['scenario']}"
    parts = [
        f"<h1>{_t(title)}</h1>",
        f'<p class="sub">{result["n_clients"]} clients, {result["rounds"]} rounds, seed {result["seed"]}, codec '
        f"{_t(result['codec'])}, level {result['level']}, edgefd {_t(result['edgefd'])}</p>",
        _state(result),
        _INTRODUCTION,
        "<h2>Verdict</h2><dl>",
        *(f"<dt>{_t(who)}</dt><dd>{_t(text)}</dd>" for who, text in verdicts(result).items()),
        "</dl>",
        _exposure(result["exposure"]),
        _membership(result),
        _canaries([f for f in result["membership"] if f["attack"] == PLANTED]),
        _copies(result["extraction"]),
        _inversion(result["inversion"], drawn),
        _controls(result["controls"]),
        "<h2>What was not tested</h2><ul>" + "".join(f"<li>{_t(x)}</li>" for x in result["not_tested"]) + "</ul>",
        f"<h2>Commands</h2><p>This audit: <code>{_t(result['command'])}</code><br>The run: <code>"
        f"{_t(result['run_command'])}</code>, whose settings are in <code>{_t(result['run'])}/config.yaml</code>. All "
        "figures are in <code>audit.json</code>, all scores in <code>scores.npz</code>.</p>",
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_t(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}{STYLE}</style></head><body>'
        + "\n".join(p for p in parts if p)
        + "</body></html>\n"
    )


def _t(value: object) -> str:
    return html.escape(str(value))


def _state(result: Mapping[str, Any]) -> str:
    if not result["valid"]:
        return f'<p class="state bad"><b>Invalid.</b> A control failed: {_t("; ".join(result["failed_controls"]))}</p>'
    judged = "".join(
        f" <b>{_t(j['limit'])}</b>: found {j['found']:.3g}, {'exceeded' if j['exceeded'] else 'not exceeded'}."
        for j in result["limits"]
    )
    attacked = result["controls"] or "individual" in (result["inversion"] or {})
    checked = "Both controls of every attack passed." if attacked else "No attack on a model was run."
    bad = " bad" if any(j["exceeded"] for j in result["limits"]) else ""
    return f'<p class="state{bad}">{checked}{judged}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], text: Sequence[int] = ()) -> str:
    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=t' if i in text else ''}>{_t(value)}</{tag}>" for i, value in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def _exposure(found: Mapping[str, Any]) -> str:
    parts = []
    if ledger := found.get("ledger"):
        parts.append("<h2>Raw records</h2>" + _ledger(ledger))
    if labels := found.get("labels"):
        parts.append("<h2>Which classes a client has</h2>" + _labels(labels))
    if attribution := found.get("attribution"):
        text = attribution.get("reason") or (
            f"From the mask: AUC {_interval(attribution['mask'])}. "
            f"From the weights: {_interval(attribution['weight'])}."
        )
        parts.append(f"<h2>Who contributed a proxy sample</h2><p>{_t(text)}</p>")
    if alone := found.get("singletons"):
        parts.append(
            "<h2>Aggregates of one client</h2><p>Where one client alone answers, the aggregate is its answer. In the "
            f"last round: {alone['one_voter'][-1]:.1%} of the rows; at most two clients answer for "
            f"{alone['at_most_two'][-1]:.1%}.</p>"
        )
    if centroids := found.get("centroids"):
        text = centroids.get("reason") or (
            f"{centroids['clusters']} centroids, which stay on the devices. {centroids['clusters_below_5']} stand for "
            f"fewer than 5 records, {centroids['centroids_that_are_records']} are a record. For "
            f"{centroids['nearest_is_fitted']:.1%} the nearest record is one that was fitted on, not one held out; "
            f"{centroids['expected']:.1%} would say nothing."
        )
        parts.append(f"<h2>Stored centroids</h2><p>{_t(text)}</p>")
    return "".join(parts)


def _ledger(ledger: Mapping[str, Any]) -> str:
    to = f" They went to {ledger['to']}, {ledger['when']}." if ledger["to"] else ""
    if ledger["share"] is None:
        rows: list[tuple[object, ...]] = [(r["client"], r["raw_records_sent"]) for r in ledger["clients"]]
        return f"<p>{ledger['raw_records_sent']:,} raw private records left their clients.{_t(to)}</p>" + _table(
            ("client", "raw records sent"), rows
        )
    rows = [
        (r["client"], r["raw_records_sent"], f"{r['share']:.1%}", r["private_records"], r["private_with_near_copy"])
        for r in ledger["clients"]
    ]
    return (
        f"<p>{ledger['raw_records_sent']:,} raw private records ({ledger['share']:.1%}) left their clients.{_t(to)} Of "
        f"{ledger['private_with_near_copy']:,} more, which stayed, a near copy is among the proxy samples: less than "
        f"half as far away as is usual in its class, which {ledger['fresh_share_as_near']:.1%} of fresh records are by "
        "chance.</p>" + _table(("client", "raw records sent", "share", "private records", "with a near copy"), rows)
    )


def _labels(labels: Mapping[str, Any]) -> str:
    if "reason" in labels:
        shares = labels["estimated_shares"]
        rows = [(client, *(f"{share:.2f}" for share in row)) for client, row in enumerate(shares)]
        return f"<p>Estimated from the weights; how well is not known: {_t(labels['reason'])}.</p>" + _table(
            ("client", *(f"class {c}" for c in range(len(shares[0])))), rows
        )
    found = []
    for name in ("masks", "weights", "soft_labels"):
        row = labels[name]
        area = row["presence_auc"]
        shown = _interval(area) if area else row["presence_reason"]
        found.append((name.replace("_", " "), shown, f"{row['total_variation']:.3f}", f"{row['kl']:.3f}"))
    even = labels["masks"]["total_variation_of_even_guess"]
    return (
        "<p>Estimated from what it sends, by one who sees the proxy samples. Total variation is the distance to the "
        f"true class shares; guessing equal shares gives {even:.3f}.</p>"
        + _table(("from", "class present: AUC", "total variation", "KL"), found, (1,))
    )


def _interval(a: Mapping[str, float]) -> str:
    return f"{a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]"


def _membership(result: Mapping[str, Any]) -> str:
    found = records(result)
    if not found:
        return ""
    acceptance = any(f["epsilon"]["claimed"] is not None for f in found)
    claimed = (
        "What is claimed is by the run's defence." if acceptance else "No ε is claimed: no defence of this run does."
    )
    out = [
        "<h2>Was this record trained on?</h2><p>Members of a client against as many records that it held out. "
        "AUC 0.5 is guessing, 1 certainty; intervals are at 95 %. TPR: how many members are found where that share of "
        "non-members is accused; its threshold was fixed on other non-members. ε is the lower bound from one run "
        f"(δ = {found[0]['epsilon']['delta']:g}), beside the most that so many records could show. "
        f"{claimed}</p>"
    ]
    for who in result["adversaries"]:
        mine = [f for f in found if f["adversary"] == who]
        if not mine:
            continue
        last = max((f["round"] for f in mine if f["round"] is not None), default=None)
        shown = sorted((f for f in mine if f["round"] in (last, None)), key=lambda f: -f["auc"]["value"])
        out.append(f"<h3>{_t(who)}</h3>{_attack_table(shown)}{_turns(shown)}{log_roc(shown)}")
        if len({f["round"] for f in mine}) > 1:
            out.append(_by_round(mine))
        out.append(_clients(shown[0]))
    return "".join(out)


def _attack_table(shown: Sequence[Mapping[str, Any]], first: tuple[str, str] = ("attack", "")) -> str:
    rows = []
    for f in shown:
        rates = [f["tpr"][name] for name in ("10%", "1%", "0.1%")]
        cells = [f"{r['tpr']['value']:.3f}" if r["tpr"] else "not known" for r in rates]
        e = f["epsilon"]
        when = "final" if f["adversary"] == "holder" else "setup" if f["round"] is None else f["round"]
        rows.append(
            (
                f[first[0]],
                _interval(f["auc"]),
                when,
                *cells,
                "none" if e["claimed"] is None else f"{e['claimed']:g}",
                f"{e['one_run']:.2f}",
                f"{e['largest_possible']:.1f}",
            )
        )
    head = (
        first[1] or first[0],
        "AUC",
        "round",
        "TPR @ 10 %",
        "@ 1 %",
        "@ 0.1 %",
        "ε claimed",
        "ε measured ≥",
        "of at most",
    )
    missing = {r["reason"] for f in shown for r in f["tpr"].values() if r["tpr"] is None}
    note = f'<p class="note">Not known: {_t("; ".join(sorted(missing)))}.</p>' if missing else ""
    return _table(head, rows) + note


def _turns(shown: Sequence[Mapping[str, Any]]) -> str:
    turns = [(f["attack"], f["each_shadow_in_turn"]) for f in shown if "each_shadow_in_turn" in f]
    if not turns:
        return ""
    said = "; ".join(f"{name} {min(areas):.3f} to {max(areas):.3f}" for name, areas in turns)
    return (
        f'<p class="note">The target is the recorded run. With each of the {len(turns[0][1])} shadow federations in '
        f"turn for the target and the other pairs for its shadows, the AUC is: {_t(said)}.</p>"
    )


def _canaries(planted: Sequence[Mapping[str, Any]]) -> str:
    if not planted:
        return ""
    return (
        "<h2>What one run with planted canaries shows of ε</h2><p>The federation was run once more. Each client was "
        "given fresh records of its classes with a wrong label; a coin for each decided whether the client trains on "
        "it. The attack is the probability of the wrong label. Nothing is easier to remember than such records, so "
        "this is no figure for ordinary ones: it bounds the ε of the clients' training from below.</p>"
        + _attack_table(planted, ("adversary", "seen by"))
        + log_roc(planted, "adversary")
    )


def _copies(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        (
            r["client"],
            r["rows"],
            _interval(r["fidelity"]),
            f"{r['control_fidelity']:.3f}",
            f"{r['accuracy']:.3f}",
            f"{r['control_accuracy']:.3f}",
            f"{r['client_accuracy']:.3f}",
            "yes" if r["above_control"] else "no",
        )
        for r in found["clients"]
    ]
    head = ("client", "rows", "fidelity", "control's", "accuracy", "control's", "client's own", "above control")
    return (
        "<h2>Copies of the clients' models</h2><p>For each client a model was trained on nothing but the history of "
        f"its soft labels. Fidelity: the share of {found['tests']:,} test records that the copy and the client's final "
        "model call the same. The control learned from the same soft labels, dealt out to the wrong samples: what it "
        "reaches, class frequencies alone give away.</p>" + _table(head, rows)
    )


_SHOWN = 8  # drawings on the page


def _inversion(found: Mapping[str, Any] | None, drawn: Arrays) -> str:
    if not found or "reason" in found:
        return ""
    level = 1 - found["null_significance"]
    rows = [
        ("private record nearer than one held out", _signed(found["individual"])),
        ("nearer to it than the mean of the class's proxy samples", _signed(found["over_proxy"])),
        ("nearer to it than what another client's answers give", _signed(found["over_other"])),
        (f"null control: the proxy mean, must cover 0 (at {level:.0%})", _signed(found["null"])),
        ("positive control: a planted record, must be above 0", _signed(found["positive"])),
    ]
    return (
        f"<h2>Images drawn from soft labels</h2><p>A decoder that was trained on the proxy samples drew "
        f"{found['drawings']} images, one for each client and class, from the pair of soft labels (client's, server's "
        f"model's) of which the client is surest. SSIM is 1 for the same image: to the nearest private record it is "
        f"{found['ssim_private']:.3f}, to the nearest of as many that the client held out and nobody trained on "
        f"{found['ssim_unseen']:.3f}. Only the difference is of a record; what both have in common is of the class.</p>"
        + _table(("difference of SSIM", "mean, 95 %"), rows)
        + _pictures(drawn)
    )


def _signed(a: Mapping[str, float]) -> str:
    return f"{a['value']:+.3f} [{a['low']:+.3f}, {a['high']:+.3f}]"


def _pictures(s: Arrays) -> str:
    if "own" not in s or s["own"].shape[1] not in (1, 3):
        return ""
    first = np.argsort(s["own_unseen"] - s["own_private"], kind="stable")[:_SHOWN]
    columns = np.stack([s[name][first] for name in ("own", "near_private", "near_unseen")])
    image = base64.b64encode(grid(columns)).decode()
    what = ", ".join(f"client {s['client'][i]} class {s['y'][i]}" for i in first)
    return (
        '<p><img style="width:100%;max-width:40rem;image-rendering:pixelated" alt="drawn images and the records '
        f'nearest to them" src="data:image/png;base64,{image}"></p><p class="note">Above: drawn; middle: the nearest '
        f"private record; below: the nearest held-out record. Those with the largest difference, of {len(s['own'])}: "
        f"{_t(what)}. This picture shows private records of the simulation.</p>"
    )


def _clients(best: Mapping[str, Any]) -> str:
    rows = [(r["client"], r["members"], _interval(r["auc"]) if r["auc"] else r["reason"]) for r in best["clients"]]
    return f"<p>By client, worst first ({_t(best['attack'])}):</p>" + _table(("client", "members", "AUC"), rows)


def _by_round(mine: Sequence[Mapping[str, Any]]) -> str:
    rounds = sorted({f["round"] for f in mine if f["round"] is not None})
    names = sorted({f["attack"] for f in mine if f["round"] is not None})
    at = {(f["attack"], f["round"]): f["auc"]["value"] for f in mine}
    rows = [(name, *(f"{at[name, r]:.3f}" if (name, r) in at else "-" for r in rounds)) for name in names]
    return "<p>AUC by round:</p>" + _table(("attack", *(f"round {r}" for r in rounds)), rows)


def _controls(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [(name, _interval(found["null"][name]), _interval(found["positive"][name])) for name in found["positive"]]
    level = 1 - found["null_significance"]
    return (
        "<h2>Controls</h2><p>Null: the same attack on a model, or a filter, that never saw the records; its interval "
        f"must cover 0.5 (at {level:.1%}, so that all together fail by chance in 5 of 100 audits). Positive: the same "
        "attack on a model that memorised mislabelled records, or a filter with shuffled ones; its interval must be "
        "above 0.5. If one fails, the audit is invalid.</p>" + _table(("attack", "null: AUC", "positive: AUC"), rows)
    )
