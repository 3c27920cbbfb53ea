"""The head of a report: what was run in two sentences, what is missing, results, facts, and how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape

import yaml

from edgefd.report.across_runs import said
from edgefd.report.figure import Table, byte_text, table_html
from edgefd.report.read import RunRecord, missing_parts
from edgefd.report.settings import Setting, final, mean_of
from edgefd.runs.round_metrics import RoundMetrics


def title(runs: Sequence[RunRecord]) -> str:
    """Of the page."""
    return f"{runs[0].dataset}: {listed(sorted({r.method for r in runs}), 4)}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """a, b and c.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed(["a", "b", "c"], 2)
    ('a, b and c', 'a', 'a, b and 1 more')
    """
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentences(settings: Sequence[Setting]) -> str:
    """What was run, and how it ended."""
    runs = [run for s in settings for run in s.runs]
    methods = list(dict.fromkeys(run.method for run in runs))
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    seeds = sorted({int(run.config["seed"]) for run in runs})
    rounds = sorted({int(run.config["train"]["rounds"]) for run in runs})
    clients = max((len(run.rounds[0].kept_per_client) for run in runs), default=0)
    ran = "simulated on" if any(run.simulated for run in runs) else "run by devices on data like"
    what = (
        f"{listed(methods)} {'was' if len(methods) == 1 else 'were'} {ran} {runs[0].dataset}, dealt to {clients} "
        f"client{'s' if clients > 1 else ''} by the partition{'s' if len(scenarios) > 1 else ''} {listed(scenarios)}, "
        f"for {listed([str(r) for r in rounds])} round{'s' if rounds[-1] > 1 else ''}, "
        f"with the seed{'s' if len(seeds) > 1 else ''} {listed([str(s) for s in seeds])}."
    )
    return f"{what} {_outcome(settings, several=len(scenarios) > 1)}"


def _outcome(settings: Sequence[Setting], several: bool) -> str:
    """Of the best in each scenario; settings are sorted so."""
    best = {s.scenario: s for s in reversed(settings) if final(s)}
    if not best:
        held = [(s, p) for s in settings if (p := final(s, _own_data))]
        if not held:
            return "No accuracy was measured yet."
        return f"On clients' own held-out data, {held[0][0].name} got to {said(held[0][1])} mean accuracy."
    if several:
        each = [f"{name}, {s.name} at {said(final(s))}" for name, s in sorted(best.items())]
        return f"The best mean accuracy over clients on the whole test set: {'; '.join(each)}."
    (s,) = best.values()
    who = f"The best, {s.name}," if len(settings) > 1 else "It"
    return (
        f"{who} {'ends at' if s.runs[0].complete else 'has got to'} {said(final(s))} mean accuracy over clients on the "
        f"whole test set, with the worst client at {said(final(s, lambda m: m.accuracy_worst))}."
    )


def _own_data(m: RoundMetrics) -> float | None:
    return m.heldout_accuracy_mean


def notes(settings: Sequence[Setting]) -> list[str]:
    """What the reader must know first: unfinished runs, and what folders do not record."""
    runs = [run for s in settings for run in s.runs]
    found = [
        f"{run.folder} is not finished: it did {len(run.answered)} of {run.config['train']['rounds']} rounds, "
        "and is shown as far as it goes."
        for run in runs
        if not run.complete
    ]
    lacking: dict[str, list[str]] = {}
    for run in runs:
        for part in missing_parts(run):
            lacking.setdefault(part, []).append(str(run.folder))
    return found + [f"Not recorded in {listed(folders, 3)}: {part}." for part, folders in lacking.items()]


def results(settings: Sequence[Setting]) -> Table:
    """A row a setting."""
    several = len({s.scenario for s in settings}) > 1
    header = ["setting", *(["scenario"] if several else []), "runs", "accuracy, mean", "worst client", "own data"]
    header += ["up", "down", "once", "proxy labels", "raw samples disclosed", "seconds"]
    return Table(header, [_result(s, several) for s in settings])


def _result(s: Setting, several: bool) -> list[str]:
    once = mean_of(s, lambda run: run.summary.bytes_once if run.summary else None)
    disclosed = mean_of(s, lambda run: run.summary.raw_samples_disclosed if run.summary else None)
    seconds = mean_of(s, lambda run: sum(m.seconds for m in run.rounds))
    up = mean_of(s, lambda run: sum(m.bytes_up for m in run.rounds))
    down = mean_of(s, lambda run: sum(m.bytes_down for m in run.rounds))
    labels = {run.summary.proxy_labels_used if run.summary else None for run in s.runs}
    return [
        s.name,
        *([s.scenario] if several else []),
        str(len(s.runs)),
        said(final(s)),
        said(final(s, lambda m: m.accuracy_worst)),
        said(final(s, _own_data)),
        *("-" if p is None else byte_text(p.mean) for p in (up, down, once)),
        "not recorded" if labels == {None} else "yes" if True in labels else "no",
        "not recorded" if disclosed is None else f"{disclosed.mean:,.0f}",
        "-" if seconds is None else f"{seconds.mean:.0f}",
    ]


def facts(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """Where the data is from, and what was disclosed."""
    runs = [run for s in settings for run in s.runs]
    known = [run.summary for run in runs if run.summary]
    disclosing = list(
        dict.fromkeys(s.name for s in settings if any(r.summary and r.summary.raw_samples_disclosed for r in s.runs))
    )
    labelled = list(
        dict.fromkeys(s.name for s in settings if any(r.summary and r.summary.proxy_labels_used for r in s.runs))
    )
    proxies = sorted({run.partition.proxy for run in runs if run.partition})
    if not known:
        return [("Data", f"{runs[0].dataset}; source not recorded")]
    first = known[0]
    most = max(s.raw_samples_disclosed for s in known)
    return [
        ("Data", f"{first.dataset}, {first.data_source}, {first.data_samples:,} samples"),
        ("sha256 of the data", first.data_sha256),
        ("Proxy set", f"{listed([f'{p:,}' for p in proxies])} samples" if proxies else "not recorded"),
        ("Labels of proxy samples", f"used by {listed(labelled)}" if labelled else "used by none"),
        ("Raw samples disclosed", f"up to {most:,} by {listed(disclosing)}" if disclosing else "none"),
        ("Made by", _maker(runs)),
    ]


def _maker(runs: Sequence[RunRecord]) -> str:
    found = {
        f"edgefd {env.get('packages', {}).get('edgefd', 'of unknown version')}, commit {env.get('commit') or 'unknown'}"
        for env in (run.environment for run in runs)
    }
    started = sorted(str(run.environment["started"]) for run in runs if "started" in run.environment)
    return f"{listed(sorted(found), 3)}{f'; first started {started[0]}' if started else ''}"


def config_html(setting: Setting, several: bool) -> str:
    """The resolved config of a setting's first run and the commands that run all of them again, folded."""
    first = setting.runs[0]
    text = yaml.safe_dump(first.config, sort_keys=False, allow_unicode=True)
    commands = "\n".join(again(run) for run in setting.runs)
    others = "; the configs of the other seeds differ in nothing else" if len(setting.runs) > 1 else ""
    return (
        f"<details><summary>{escape(setting.name)}{escape(f', {setting.scenario}' if several else '')}</summary>"
        f"<p>{_how(first)}</p><pre><code>{escape(commands)}</code></pre>"
        f"<p>{escape(str(first.folder / 'config.yaml'))}{others}:</p><pre><code>{escape(text)}</code></pre></details>"
    )


def again(run: RunRecord) -> str:
    """The command that reproduces a run; for a run of devices, the one that coordinated it."""
    if not run.simulated:
        return str(run.environment.get("command", "edgefd server ..."))
    path = shlex.quote(str(run.folder / "config.yaml"))
    return f"edgefd simulate {path}{' baselines=[]' if run.config.get('baselines') else ''}"


def _how(run: RunRecord) -> str:
    if not run.simulated:
        return "This run was of devices; its coordinator was started by:"
    return "This command runs it again, with the same result on the same kind of machine:"


def head_html(settings: Sequence[Setting]) -> str:
    """All of it."""
    runs = [run for s in settings for run in s.runs]
    warned = "".join(f"<li>{escape(note)}</li>" for note in notes(settings))
    pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts(settings))
    several = len({s.scenario for s in settings}) > 1
    configs = "".join(config_html(s, several) for s in settings)
    spread = any(len(s.runs) > 1 for s in settings)
    how = " In parentheses, and as bands: the 95 % interval of the mean over seeds (Student's t)." if spread else ""
    return (
        f"<header><h1>{escape(title(runs))}</h1><p>{escape(sentences(settings))}</p></header>"
        f"{f'<ul class=notice>{warned}</ul>' if warned else ''}"
        f'<section class="card"><h2>Results</h2>{table_html(results(settings), "Results")}'
        f'<p class="note">Accuracy is that of the last measured round, never of the best.{how}</p></section>'
        f'<section class="card"><h2>What was run</h2><dl>{pairs}</dl><h3>Configs and commands</h3>{configs}</section>'
    )
