"""audit.html: one self-contained page for a reviewer who has never seen federated distillation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from edgefd.auditing.recording.signal_store import Arrays
from edgefd.auditing.report.disclosure_section import disclosure_html
from edgefd.auditing.report.membership_section import (
    canaries_html,
    controls_html,
    membership_html,
    user_level_html,
)
from edgefd.auditing.report.models_and_images import extraction_html, inversion_html
from edgefd.auditing.report.verdict import WHO, Finding, leaking, verdicts
from edgefd.report.html import document, escape

_INTRODUCTION = (
    "<p>In federated distillation, clients keep their records and send <em>soft labels</em>: the class probabilities "
    "that their own model gives to shared <em>proxy samples</em>. With EdgeFD, each client first decides which proxy "
    "samples look like its own data, and sends soft labels only for those. Which samples these are is the client's "
    "<em>mask</em>; how certain it is of each of them is given by its <em>weights</em>. This page shows what those "
    "messages disclose.</p>"
)


def page(result: Mapping[str, Any], reconstructions: Arrays) -> str:
    """Render the whole page; `reconstructions` is the result of `inversion_signals`, or empty."""
    keys = (f"roc{i}" for i in count())
    title = f"Privacy audit: {result['method']} on {result['dataset']}, {result['scenario']}"
    return document("edgefd audit", title, "\n".join(_sections(title, result, reconstructions, keys)), "audit.css")


def _sections(title: str, result: Mapping[str, Any], reconstructions: Arrays, keys: Iterator[str]) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield (
        f'<p class="subtitle">{result["n_clients"]} clients, {result["rounds"]} rounds, seed {result["seed"]}, codec '
        f"{escape(result['codec'])}, level {result['level']}, edgefd {escape(result['edgefd'])}</p>"
    )
    yield _state(result)
    yield _INTRODUCTION
    pairs = "".join(_verdict(adversary, findings) for adversary, findings in verdicts(result).items())
    yield f"<h2>Verdict</h2><dl>{pairs}</dl>"
    yield disclosure_html(result["exposure"])
    yield membership_html(result, keys)
    yield user_level_html(result["user_level"])
    yield canaries_html(result, keys)
    yield extraction_html(result["extraction"])
    yield inversion_html(result["inversion"], reconstructions)
    yield controls_html(result["controls"])
    items = "".join(f"<li>{escape(text)}</li>" for text in result["not_tested"])
    yield f"<h2>What was not tested</h2><ul>{items}</ul>"
    yield (
        f"<h2>Seal of the recording</h2><p>SHA-256 over the digests that the run wrote of its messages, models and "
        f"settings: <code>{escape(result['seal'])}</code></p>"
    )
    yield (
        f"<h2>Commands</h2><p>This audit: <code>{escape(result['command'])}</code><br>The run: <code>"
        f"{escape(result['run_command'])}</code>; its settings are in "
        f"<code>{escape(result['run'])}/config.yaml</code>. All figures are in <code>audit.json</code>, all "
        "scores in <code>scores.npz</code>.</p>"
    )


def _verdict(adversary: str, findings: Sequence[Finding]) -> str:
    """Render what an adversary learns, one line for each finding."""
    lines = "".join(f"<li{' class=leak' if f.leak else ''}>{escape(str(f))}</li>" for f in findings)
    return f"<dt>{escape(adversary)}</dt><dd>{escape(WHO[adversary])}, <ul>{lines}</ul></dd>"


def _state(result: Mapping[str, Any]) -> str:
    """Render the banner: whether the measurement works, and what it found; it never looks like approval."""
    if not result["valid"]:
        failed = escape("; ".join(result["failed_controls"]))
        return f'<p class="state bad"><b>Invalid: the measurement does not work.</b> A control failed: {failed}</p>'
    leaks, refuted = leaking(result), [claim for claim in result["claims"] if claim["refuted"]]
    exceeded = any(limit["exceeded"] for limit in result["limits"])
    attacked = result["controls"] or "individual" in (result["inversion"] or {})
    controls = (
        "Both controls of every attack passed." if attacked else "No attack on a model was run, so it has no controls."
    )
    if replayed := result["replay"]:
        controls += (
            f" {replayed['reports']} recorded reports were computed again from the recorded models: "
            f"{replayed['equal']} are equal to the bit{'' if replayed['exact'] else ', the others to within rounding'}."
        )
    found = (
        f"It found a disclosure to: <b>{escape(', '.join(leaks))}</b>."
        if leaks
        else "It could not show a disclosure. This is no proof that there is none: read what was not tested."
    )
    claims = "".join(
        f" <b>The claimed ε = {claim['claimed']:g} is refuted</b>: at least {claim['measured']:.2f}, measured as "
        f"{escape(claim['adversary'])}."
        for claim in refuted
    )
    limits = "".join(
        f" <b>{escape(limit['limit'])}</b>: found {limit['found']:.3g}, "
        f"{'exceeded' if limit['exceeded'] else 'not exceeded'}."
        for limit in result["limits"]
    )
    colour = " bad" if exceeded or refuted else " leak" if leaks else ""
    return f'<p class="state{colour}">The measurement works: {controls} {found}{claims}{limits}</p>'
