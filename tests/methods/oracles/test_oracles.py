"""Every aggregation and loss with public reference code gives the value of that code's formula, to 1e-6."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.filters.kulsif import KuLSIF
from edgefd.learners.batches import AnchoredBatch, labelled, softmax
from edgefd.learners.torch_learner import TorchLearner
from edgefd.methods import comet, dsfl, fccl, feddf, fedproto, get_method, kt_pfl, scarlet
from edgefd.methods._own_training import centred
from edgefd.methods._several_teachers import join_teachers
from edgefd.methods.fedmd_published import l1_gradient
from edgefd.methods.fkd import class_means
from tests.methods.oracles.derive import FILE, SOURCES, derive
from tests.support.votes import Fixed, holder, proxy, server

ORACLES: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
Z, V, Y = (np.array(ORACLES["shared"][name]) for name in ("logits", "soft_labels", "y"))
K, P, C = Z.shape
ONES, IDS = np.ones(P, np.float32), np.arange(P)


def oracle(method: str) -> dict[str, Any]:
    values = ORACLES[method].items()
    return {k: np.array(v) if isinstance(v, list) and None not in v else v for k, v in values if k != "source"}


def upload(values: np.ndarray) -> Knowledge:
    return Knowledge(IDS, values.astype(np.float32), ONES)


def server_of(config: object = None, uploads: np.ndarray = V, round: int = 1, **more: Any) -> ServerContext:
    reports = [Report(k, round, upload(uploads[k])) for k in range(K)]
    ctx = server(reports, config, round, **more)
    return replace(ctx, proxy=proxy(P), plan=RoundPlan(round, IDS), terms=replace(ctx.terms, n_classes=C))


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def flat(value: Any) -> list[Any]:
    """Return all leaves of nested lists and dicts, in order."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for each in inner for leaf in flat(each)]


def test_the_file_holds_what_the_script_derives() -> None:
    stored, derived = flat(ORACLES), flat(derive())
    assert len(stored) == len(derived)
    for a, b in zip(stored, derived, strict=True):
        assert a == (pytest.approx(b, abs=1e-8) if isinstance(b, float) else b)


def fedmd_mean() -> None:
    close(get_method("fedmd").aggregate(server_of()).values, oracle("fedmd")["mean"])


def dsfl_era() -> None:
    values = oracle("dsfl")
    close(dsfl.aggregate(server_of(dsfl.Config(temperature=values["temperature"]))).values, values["era"])


def scarlet_era() -> None:
    values = oracle("scarlet")
    close(scarlet.aggregate(server_of(scarlet.Config(beta=values["beta"]))).values, values["era"])


def cfd_mean() -> None:
    method = get_method("cfd")
    client = holder(0, Fixed())
    hard = []
    for k in range(K):
        ctx = replace(client, learner=Fixed(Z[k].tolist()), proxy=proxy(P), acceptance=ONES, plan=RoundPlan(0, IDS))
        hard.append(method.upload(ctx).values)
    ctx = server_of(uploads=np.stack(hard))
    close(ctx.combine(ctx.uploads).values, oracle("cfd")["mean"])


def comet_nearest() -> None:
    values = oracle("comet")
    teacher = join_teachers(range(2), IDS, values["options"], P)
    client = replace(holder(0, Fixed(Z[0].tolist())), proxy=proxy(P), acceptance=ONES, plan=RoundPlan(1, IDS))
    batch = comet.distillation_targets(replace(client, terms=replace(client.terms, n_classes=C)), teacher)
    close(batch.targets, values["nearest"])


def weighted_fd_teacher() -> None:
    close(get_method("weighted_fd").aggregate(server_of(labels=Y)).values, oracle("weighted_fd")["teacher"])


def selective_fd_ratio() -> None:
    values = oracle("selective_fd")
    for variant in ("correct", "published"):
        scorer = KuLSIF(values["width"], variant).fit(values["private"], reference=values["auxiliary"])  # type: ignore[arg-type]
        close(scorer.score_samples(values["x"]), values[variant])


def kt_pfl_coefficients() -> None:
    values = oracle("kt_pfl")
    close(kt_pfl.step(values["start"], V, kt_pfl.Config(rho=values["rho"])), values["coefficients"])


def fkd_means() -> None:
    values = oracle("fkd")
    uploads = [class_means(z.astype(np.float32), y) for z, y in zip(values["logits"], values["labels"], strict=True)]
    means = get_method("fkd").aggregate(server([Report(k, 0, u) for k, u in enumerate(uploads)]))
    close(means.values, [row for row in ORACLES["fkd"]["means"] if row is not None])


def feddf_ensembles() -> None:
    class Switched(Fixed):
        """A learner whose parameters choose the client whose logits it gives."""

        def predict_logits(self, x: np.ndarray) -> np.ndarray:
            return Z[int(self.parameters[0])].astype(np.float32)

    sent = [Knowledge(np.zeros(1, int), np.array([[k]], np.float32), np.ones(1, np.float32)) for k in range(K)]
    for kind in ("logits", "probabilities"):
        ctx = server_of(feddf.Config(ensemble=kind), learner=Switched())  # type: ignore[arg-type]
        close(feddf.ensemble(ctx, sent), ORACLES["feddf"][kind])


def fedmd_published_mean_and_loss() -> None:
    values, method = oracle("fedmd_published"), get_method("fedmd_published")
    close(method.aggregate(server_of(uploads=Z, labels=Y)).values, values["mean"])
    gradient = l1_gradient(Z[0], values["mean"])
    close((gradient * (Z[0] - values["mean"])).sum(), values["loss"])  # |a| = sign(a) a
    assert np.abs(centred(Z[0]).mean(1)).max() < 1e-12


def fedproto_prototypes_and_loss() -> None:
    values = ORACLES["fedproto"]
    f = np.array(values["embeddings"], np.float32)
    uploads = [class_means(f[k], np.array(y)) for k, y in enumerate(values["labels"])]
    prototypes = get_method("fedproto").aggregate(server([Report(k, 0, u) for k, u in enumerate(uploads)]))
    close(prototypes.values, [row for row in values["prototypes"] if row is not None])
    y = np.array(values["y"])
    batch = next(iter(fedproto.anchored([labelled(f[0], y, C)], prototypes, 1.0)))
    fixed = losses(nn.Linear(2, C), batch)
    assert fixed[0] == fixed[1], "there is no layer below the embedding that could learn"
    hidden = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, C))
    with torch.no_grad():
        hidden[0].weight.copy_(torch.eye(2))
        hidden[0].bias.zero_()
    without, pulled = losses(hidden, batch)
    close(pulled - without, values["loss"])


def losses(model: nn.Module, batch: AnchoredBatch) -> list[float]:
    """Return the loss without the pull towards the prototypes, and with it."""
    return [TorchLearner(model).train([replace(batch, strength=s)], 0.0) for s in (0.0, 1.0)]


def fccl_loss_and_gradient() -> None:
    values, teacher = ORACLES["fccl"], Z.mean(0)
    loss, gradient = fccl.correlation_loss(Z[0], teacher, values["off_diagonal"])
    close(loss, values["loss"])
    slope = np.zeros_like(Z[0])
    for at in np.ndindex(*slope.shape):
        step = np.zeros_like(slope)
        step[at] = 1e-6
        up, down = (fccl.correlation_loss(Z[0] + s * step, teacher, values["off_diagonal"])[0] for s in (1, -1))
        slope[at] = (up - down) / 2e-6
    close(gradient, slope)


CHECKS: dict[str, Callable[[], None]] = {
    "fedmd": fedmd_mean,
    "dsfl": dsfl_era,
    "scarlet": scarlet_era,
    "cfd": cfd_mean,
    "comet": comet_nearest,
    "weighted_fd": weighted_fd_teacher,
    "selective_fd": selective_fd_ratio,
    "kt_pfl": kt_pfl_coefficients,
    "fkd": fkd_means,
    "feddf": feddf_ensembles,
    "fedmd_published": fedmd_published_mean_and_loss,
    "fedproto": fedproto_prototypes_and_loss,
    "fccl": fccl_loss_and_gradient,
}


@pytest.mark.parametrize("method", SOURCES)
def test_the_method_has_the_values_of_its_reference(method: str) -> None:
    assert set(ORACLES[method]["source"]) == {"repository", "commit", "file", "function"}
    CHECKS[method]()


def test_the_softmax_of_the_logits_is_the_soft_label() -> None:
    close(softmax(Z[0].astype(np.float32)), V[0])
