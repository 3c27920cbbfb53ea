"""The head of a report: a summary, notices, results, facts, and the commands that run everything again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from edgefd.core.yaml_files import dump_yaml
from edgefd.report.figure import byte_text
from edgefd.report.html import Table, escape, table_html
from edgefd.report.read import missing_parts
from edgefd.report.settings import Setting, final, mean_of, point_text
from edgefd.runs.read import RunRecord
from edgefd.runs.records import Summary
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.training_warning import last_loss


def title(runs: Sequence[RunRecord]) -> str:
    """Return the title of the page: the data set and the methods."""
    return f"{runs[0].dataset}: {listed(sorted({r.method for r in runs}), 4)}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Join names as in "a, b and c", and count those beyond `most`.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed(["a", "b", "c"], 2)
    ('a, b and c', 'a', 'a, b and 1 more')
    """
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def summary(settings: Sequence[Setting]) -> str:
    """Describe in sentences what was run, and how it ended."""
    runs = [run for s in settings for run in s.runs]
    methods = list(dict.fromkeys(run.method for run in runs))
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    seeds = sorted({int(run.config["seed"]) for run in runs})
    rounds = sorted({int(run.config["train"]["rounds"]) for run in runs})
    clients = max((len(run.rounds[0].kept_per_client) for run in runs), default=0)
    ran = "simulated on" if any(run.simulated for run in runs) else "run by devices on data like"
    setup = (
        f"{listed(methods)} {'was' if len(methods) == 1 else 'were'} {ran} {runs[0].dataset}, split among {clients} "
        f"client{'s' if clients > 1 else ''} by the partition{'s' if len(scenarios) > 1 else ''} {listed(scenarios)}, "
        f"for {listed([str(r) for r in rounds])} round{'s' if rounds[-1] > 1 else ''}, "
        f"with the seed{'s' if len(seeds) > 1 else ''} {listed([str(s) for s in seeds])}."
    )
    return f"{setup} {_outcome(settings, several=len(scenarios) > 1)}"


def _outcome(settings: Sequence[Setting], several: bool) -> str:
    """Describe the outcome of the best setting in each scenario; settings are sorted best first."""
    best = {s.scenario: s for s in reversed(settings) if final(s)}
    if not best:
        measured = [(s, p) for s in settings if (p := final(s, _own_data))]
        if not measured:
            return "No accuracy was measured yet."
        setting, accuracy = measured[0]
        return f"On clients' own held-out data, {setting.name} reached {point_text(accuracy)} mean accuracy."
    if several:
        by_scenario = [f"{name}, {s.name} at {point_text(final(s))}" for name, s in sorted(best.items())]
        return f"The best mean accuracy over clients on the whole test set: {'; '.join(by_scenario)}."
    (s,) = best.values()
    subject = f"The best, {s.name}," if len(settings) > 1 else "It"
    verb = "ends at" if s.runs[0].complete else "has reached"
    return (
        f"{subject} {verb} {point_text(final(s))} mean accuracy over clients on the whole test set, with "
        f"the worst client at {point_text(final(s, lambda m: m.accuracy_worst))}."
    )


def _own_data(m: RoundMetrics) -> float | None:
    return m.heldout_accuracy_mean


def notices(settings: Sequence[Setting]) -> list[str]:
    """List what a reader must know: unfinished or untrained runs, missing parts, accuracies not on the test set."""
    runs = [run for s in settings for run in s.runs]
    unfinished = [
        f"{run.folder} is not finished: it completed {len(run.answered)} of {run.config['train']['rounds']} rounds, "
        "which are shown."
        for run in runs
        if not run.complete
    ]
    missing: dict[str, list[str]] = {}
    for run in runs:
        for part in missing_parts(run):
            missing.setdefault(part, []).append(str(run.folder))
    if any(run.evaluated_on == "validation" for run in runs):
        words = "Accuracies are those on the validation part of the training data, wherever this page says test set."
        unfinished.insert(0, words)
    untrained = [
        f"{run.folder}: {run.summary.training_warning}." for run in runs if run.summary and run.summary.training_warning
    ]
    not_recorded = [f"Not recorded in {listed(folders, 3)}: {part}." for part, folders in missing.items()]
    return [*unfinished, *untrained, *not_recorded]


def results(settings: Sequence[Setting]) -> Table:
    """Return the table of results, with one row for each setting."""
    several = len({s.scenario for s in settings}) > 1
    header = ["setting", *(["scenario"] if several else []), "runs", "accuracy, mean", "worst client", "own data"]
    header += ["personal", "BAM", "macro F1"]
    header += ["training loss", "up", "down", "once", "proxy labels", "raw samples disclosed", "seconds"]
    return Table(header, [_result(s, several) for s in settings])


def _result(s: Setting, several: bool) -> list[str]:
    once = mean_of(s, lambda run: run.summary.bytes_once if run.summary else None)
    disclosed = mean_of(s, lambda run: run.summary.raw_samples_disclosed if run.summary else None)
    seconds = mean_of(s, lambda run: sum(m.seconds for m in run.rounds))
    up = mean_of(s, lambda run: sum(m.bytes_up for m in run.rounds))
    down = mean_of(s, lambda run: sum(m.bytes_down for m in run.rounds))
    loss = mean_of(s, lambda run: last_loss(run.rounds))
    labels = {run.summary.proxy_labels_used if run.summary else None for run in s.runs}
    return [
        s.name,
        *([s.scenario] if several else []),
        str(len(s.runs)),
        point_text(final(s)),
        point_text(final(s, lambda m: m.accuracy_worst)),
        point_text(final(s, _own_data)),
        point_text(final(s, lambda m: m.personal_accuracy_mean)),
        point_text(final(s, lambda m: m.bam_mean)),
        point_text(final(s, lambda m: m.macro_f1_mean)),
        "-" if loss is None else f"{loss.mean:.2f}",
        *("-" if p is None else byte_text(p.mean) for p in (up, down, once)),
        "not recorded" if labels == {None} else "yes" if True in labels else "no",
        "not recorded" if disclosed is None else f"{disclosed.mean:,.0f}",
        "-" if seconds is None else f"{seconds.mean:.0f}",
    ]


def facts(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """Return the source of the data, what was disclosed, and the software, as pairs of name and value."""
    runs = [run for s in settings for run in s.runs]
    summaries = [run.summary for run in runs if run.summary]
    disclosing = _names_where(settings, lambda summary: summary.raw_samples_disclosed)
    labelled = _names_where(settings, lambda summary: summary.proxy_labels_used)
    proxies = sorted({run.partition.proxy for run in runs if run.partition})
    if not summaries:
        return [("Data", f"{runs[0].dataset}; source not recorded")]
    first = summaries[0]
    most = max(s.raw_samples_disclosed for s in summaries)
    return [
        *_data(first),
        ("Proxy set", f"{listed([f'{p:,}' for p in proxies])} samples" if proxies else "not recorded"),
        ("Labels of proxy samples", f"used by {listed(labelled)}" if labelled else "used by none"),
        ("Raw samples disclosed", f"up to {most:,} by {listed(disclosing)}" if disclosing else "none"),
        ("Run with", _software(runs)),
    ]


def _data(summary: Summary) -> list[tuple[str, str]]:
    if summary.data_sha256 is None or summary.data_samples is None:
        return [("Data", f"{summary.dataset}, private data of devices")]
    return [
        ("Data", f"{summary.dataset}, {summary.data_source}, {summary.data_samples:,} samples"),
        ("sha256 of the data", summary.data_sha256),
    ]


def _names_where(settings: Sequence[Setting], holds: Callable[[Summary], object]) -> list[str]:
    """Return the names of the settings with a run whose summary meets a condition."""
    return list(dict.fromkeys(s.name for s in settings if any(run.summary and holds(run.summary) for run in s.runs)))


def _software(runs: Sequence[RunRecord]) -> str:
    versions = {
        f"edgefd {env.get('packages', {}).get('edgefd', 'of unknown version')}, commit {env.get('commit') or 'unknown'}"
        for env in (run.environment for run in runs)
    }
    started = sorted(str(run.environment["started"]) for run in runs if "started" in run.environment)
    return f"{listed(sorted(versions), 3)}{f'; first started {started[0]}' if started else ''}"


def config_html(setting: Setting, several: bool) -> str:
    """Render, folded, the resolved config of a setting's first run and the commands that reproduce all its runs."""
    first = setting.runs[0]
    text = dump_yaml(first.config)
    commands = "\n".join(reproducing_command(run) for run in setting.runs)
    others = "; the configs of the other seeds differ only in the seed" if len(setting.runs) > 1 else ""
    return (
        f"<details><summary>{escape(setting.name)}{escape(f', {setting.scenario}' if several else '')}</summary>"
        f"<p>{_command_note(first)}</p><pre><code>{escape(commands)}</code></pre>"
        f"<p>{escape(str(first.folder / 'config.yaml'))}{others}:</p><pre><code>{escape(text)}</code></pre></details>"
    )


def reproducing_command(run: RunRecord) -> str:
    """Return the command that reproduces a run; for a run of devices, the command that started its coordinator."""
    if not run.simulated:
        return str(run.environment.get("command", "edgefd serve ..."))
    path = shlex.quote(str(run.folder / "config.yaml"))
    return f"edgefd simulate {path}{' baselines=[]' if run.config.get('baselines') else ''}"


def _command_note(run: RunRecord) -> str:
    if not run.simulated:
        return "Devices made this run. The command that started its coordinator:"
    if objects := run.environment.get("objects"):
        described = "; ".join(f"{escape(name)}: {escape(str(value))}" for name, value in objects.items())
        return f"This run used objects of a Python session, so this command alone cannot repeat it ({described}):"
    return "This command repeats the run, with the same result on the same kind of machine:"


def head_html(settings: Sequence[Setting]) -> str:
    """Render the head of the report (title, notices, results, facts, configs) as HTML."""
    runs = [run for s in settings for run in s.runs]
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices(settings))
    pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts(settings))
    several = len({s.scenario for s in settings}) > 1
    configs = "".join(config_html(s, several) for s in settings)
    spread = any(len(s.runs) > 1 for s in settings)
    intervals = (
        " In parentheses, and as bands: the 95 % interval of the mean over seeds (Student's t)." if spread else ""
    )
    return (
        f"<header><h1>{escape(title(runs))}</h1><p>{escape(summary(settings))}</p></header>"
        f"{f'<ul class=notice>{items}</ul>' if items else ''}"
        f'<section class="card"><h2>Results</h2>{table_html(results(settings), "Results")}'
        f'<p class="note">Accuracy is that of the last measured round, never of the best.{intervals}</p></section>'
        f'<section class="card"><h2>What was run</h2><dl>{pairs}</dl><h3>Configs and commands</h3>{configs}</section>'
    )
