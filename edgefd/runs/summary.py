"""The summary of a run: the content of summary.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgefd.config.schema import Config
from edgefd.defences.apply import claim, noise_seed
from edgefd.runs.facts import RunFacts
from edgefd.runs.records import Summary
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.training_warning import last_loss, training_warning

PERSONAL = (
    *("personal_accuracy_mean", "bam_mean", "macro_f1_mean", "recall_by_class"),
    *("accuracy_quantiles", "personal_accuracy_quantiles"),
)
"""fields of the final round that the summary repeats under the same names"""


def summarise(config: Config, facts: RunFacts, rounds: list[RoundMetrics], seconds: float) -> dict[str, Any]:
    """Return summary.json. Accuracies are those of the final round, except `accuracy_best`."""
    measured = [m for m in rounds if m.accuracy_mean is not None]
    exchanged = [m for m in rounds if not m.closing]
    heldout = [m for m in rounds if m.heldout_accuracy_mean is not None]
    last, final = exchanged[-1], (measured[-1] if measured else None)
    best = max(measured, key=lambda m: m.accuracy_mean or 0.0, default=None)  # the first of equal ones
    privacy = claim(config.defence)
    summary = Summary(
        method=config.method_name,
        dataset=facts.dataset,
        scenario=config.partition.name,
        seed=config.seed,
        rounds=len(exchanged),
        complete=rounds[-1].closing,
        n_clients=facts.n_clients,
        stopped_early=_stopped_early(config, rounds),
        evaluated_on=config.data.evaluate_on,
        accuracy_mean=final.accuracy_mean if final else None,
        accuracy_worst=final.accuracy_worst if final else None,
        accuracy_per_client=final.accuracy_per_client if final else None,
        accuracy_best=best.accuracy_mean if best else None,
        accuracy_best_round=best.round if best else None,
        training_loss=last_loss(rounds),
        training_warning=training_warning(config, facts, rounds) if rounds[-1].closing else None,
        heldout_accuracy_mean=heldout[-1].heldout_accuracy_mean if heldout else None,
        bytes_up=sum(m.bytes_up for m in rounds),
        bytes_down=sum(m.bytes_down for m in rounds),
        bytes_once=facts.bytes_once,
        codec=facts.codec,
        seconds_total=seconds,
        seconds_per_round=sum(m.seconds for m in rounds) / len(rounds),
        virtual_seconds=_total([m.virtual_seconds for m in rounds]),
        joules=_total([m.joules for m in rounds]),
        kept_fraction=last.kept_fraction,
        wrong_claims=last.wrong_claims,
        teacher_coverage=last.teacher_coverage,
        teacher_accuracy=last.teacher_accuracy,
        teacher_ece=last.teacher_ece,
        ece_mean=final.ece_mean if final else None,
        agreement_mean=final.agreement_mean if final else None,
        **({name: getattr(final, name) for name in PERSONAL} if final else {}),
        proxy_labels_used=config.method.proxy_labels,
        raw_samples_disclosed=facts.raw_samples_disclosed,
        epsilon_claimed=None if privacy is None else privacy[0],
        delta_claimed=None if privacy is None else privacy[1],
        noise_seed=noise_seed(config.defence),
        data_source=facts.data_source,
        data_samples=facts.data_samples,
        data_sha256=facts.data_sha256,
        proxy_source=facts.proxy_source,
        proxy_source_sha256=facts.proxy_source_sha256,
    )
    return asdict(summary)


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _stopped_early(config: Config, rounds: list[RoundMetrics]) -> str | None:
    """Return why the closing round came before the last one of train.rounds; None if it did not."""
    exchanged = [m for m in rounds if not m.closing]
    if config.run.patience is None or not rounds[-1].closing or len(exchanged) == config.train.rounds:
        return None
    best = max(exchanged, key=lambda m: -1.0 if m.heldout_accuracy_mean is None else m.heldout_accuracy_mean)
    return (
        f"stopped after {len(exchanged)} of {config.train.rounds} rounds: {config.run.patience} evaluations in a row "
        f"gained no held-out accuracy after {best.heldout_accuracy_mean:.4f} in round {best.round}"
    )
