"""Derive the expected values in oracles.json from the formulas of public reference code, on random arrays.

The formulas were read in the files that `SOURCES` names, and are computed here by plain loops, independently of edgefd.
No code was copied. Run `python -m tests.methods.oracles.derive` to write the file again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("oracles.json")
SCARLET = ("kitsuyaazuma/SCARLET", "bd433deb5c7a82290f7c65949ca45a9bf90bbdf4")
REPRODUCIBILITY = ("kitsuyaazuma/SCARLET", "12c17c73ca13f8b724e7b5e51de7bbc3ae66d840")
WEIGHTED_FD = ("pidellacqua/weighted-fd", "e5197e020592356cf78b1a579e72796d1c84fdb7")
SELECTIVE_FD = ("shaojiawei07/Selective-FD", "dc875f28dee046a231cb5ec4ccf77e81dd29dd11")
SOURCES: dict[str, tuple[str, ...]] = {
    "fedmd": (*WEIGHTED_FD, "src/wfd/server.py", "FedMDServer.generate_soft_labels"),
    "dsfl": (*SCARLET, "src/scarlet/algorithm/dsfl.py", "DSFLServerHandler.global_update"),
    "scarlet": (*SCARLET, "src/scarlet/algorithm/scarlet.py", "SCARLETServerHandler.enhanced_era"),
    "cfd": (*REPRODUCIBILITY, "src/algorithm/cfd.py", "CFDServerHandler.global_update"),
    "comet": (*REPRODUCIBILITY, "src/algorithm/comet.py", "COMETClientWorkerProcess.get_best_centroids"),
    "weighted_fd": (*WEIGHTED_FD, "src/wfd/server.py", "WeightedFDServer.generate_soft_labels"),
    "selective_fd": (*SELECTIVE_FD, "KuLSIF.py", "KuLSIF_density_ratio_estimation.ratio_estimator"),
    "kt_pfl": (
        *("cugzj/KT-pFL", "a08a01f34bc8ae97a8063439a0a9d89ed8441b60"),
        *("src/engine_kt_pfl.py", "get_models_logits"),
    ),
    "fkd": (
        *("TsingZ0/PFLlib", "5f745ba1766722e4789701b597bdbe52386b86be"),
        *("system/flcore/servers/serverfd.py", "logit_aggregation"),
    ),
    "feddf": (
        *("epfml/federated-learning-public-code", "44dd5551071969eb354ee2ed091a9ba36c1d5b08"),
        *("codes/FedDF-code/pcode/aggregation/noise_knowledge_transfer.py", "NoiseKTSolver.update_student"),
    ),
    "fedmd_published": (
        *("Tzq2doc/FedMD", "113f2418193a07d28cc3fc74daa17668f7fa55b9"),
        *("FedMD.py", "FedMD.collaborative_training"),
    ),
    "fedproto": (
        *("yuetan031/FedProto", "97e42e2741e1ae2e2fce2465e80f38f6997f8836"),
        *("lib/update.py", "LocalUpdate.update_weights_het"),
    ),
    "fccl": (
        *("WenkeHuang/FCCL", "141d72c26f833d108f564a49169168746e8e1d1a"),
        *("fccl/Idea/Ours/FCCL.py", "col_loss"),
    ),
}
"""repository, commit, file and function that hold the formula"""

K, P, C = 3, 4, 3  # clients, proxy rows, classes
RNG = np.random.default_rng(20)
Z = RNG.normal(0, 2, (K, P, C))  # logits of the clients
Y = RNG.integers(0, C, P)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


V = softmax(Z)  # soft labels of the clients


def mean_of_soft_labels() -> np.ndarray:
    return sum(V[k] for k in range(K)) / K


def enhanced_era(beta: float) -> np.ndarray:
    power = mean_of_soft_labels() ** beta
    return power / power.sum(1, keepdims=True)


def mean_of_one_hot() -> np.ndarray:
    out = np.zeros((P, C))
    for k in range(K):
        for i in range(P):
            out[i, V[k, i].argmax()] += 1 / K
    return out


def weighted_by_the_label() -> np.ndarray:
    out = np.zeros((P, C))
    for i in range(P):
        for k in range(K):
            out[i] += -1 / np.log(V[k, i, Y[i]]) * V[k, i]
    return softmax(out)


def nearest_centroid(client: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Return for each row the option [n, P, C] with the smallest Euclidean distance."""
    return np.array([min(options[:, i], key=lambda o: np.linalg.norm(client[i] - o)) for i in range(P)])


def kulsif(private: np.ndarray, auxiliary: np.ndarray, x: np.ndarray, width: float, inverse: bool) -> np.ndarray:
    n, m = len(auxiliary), len(private)
    lam = n**-0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / width**2 / 2))

    left = np.array([[kernel(u, v) / n for v in auxiliary] for u in auxiliary]) + lam * np.eye(n)
    right = np.array([-sum(kernel(u, y) for y in private) / (n * m * lam) for u in auxiliary])
    alpha = (np.linalg.inv(left) if inverse else left) @ right
    return np.array(
        [
            sum(a * kernel(row, u) for a, u in zip(alpha, auxiliary, strict=True))
            + sum(kernel(row, y) for y in private) / m / lam
            for row in x
        ]
    )


def coefficients(start: np.ndarray, rho: float) -> np.ndarray:
    """Return the coefficients after one round, with the gradient of the loss by central differences."""

    def loss(k: int, c: np.ndarray) -> float:
        mixture = sum(c[m] * V[m] for m in range(K))
        return float(((V[k] - mixture) ** 2).mean() + rho * ((c - 1 / K) ** 2).mean())

    out = np.zeros((K, K))
    for k in range(K):
        gradient = np.zeros(K)
        for m in range(K):
            step = np.zeros(K)
            step[m] = 1e-5
            gradient[m] = (loss(k, start[k] + step) - loss(k, start[k] - step)) / 2e-5
        mean, rate = float(np.abs(gradient).sum()) / K, 1.0
        for _ in range(5):
            if mean > 0.01:
                mean, rate = mean / 5, rate / 5
            if mean < 0.01:
                mean, rate = mean * 5, rate * 5
        out[k] = softmax(5 * (start[k] - rate * gradient))
    return out


def class_means(values: np.ndarray, labels: list[np.ndarray]) -> list[list[float] | None]:
    """Return the mean over clients of each client's mean of a class; None for a class that no client has."""
    out: list[list[float] | None] = []
    for c in range(C):
        own = [values[k][labels[k] == c].mean(0) for k in range(K) if (labels[k] == c).any()]
        out.append(np.mean(own, 0).tolist() if own else None)
    return out


def cross_correlation(z: np.ndarray, teacher: np.ndarray, off_diagonal: float) -> float:
    def standardised(a: np.ndarray) -> np.ndarray:
        return (a - a.mean(0)) / np.sqrt(((a - a.mean(0)) ** 2).sum(0) / (len(a) - 1))

    c = standardised(z).T @ standardised(teacher) / len(z)
    loss = 0.0
    for i in range(C):
        for j in range(C):
            loss += (c[i, j] - 1) ** 2 if i == j else off_diagonal * (c[i, j] + 1) ** 2
    return loss


def derive() -> dict[str, Any]:
    """Return inputs and expected values of each method."""
    points = RNG.normal(0, 1, (12, 2))
    private, auxiliary, x = points[:5], 3 * points[5:8], points[8:]
    start = RNG.dirichlet(np.ones(K), K)
    options = RNG.dirichlet(np.ones(C), (2, P))
    labels = [RNG.integers(0, C - 1, 6) for _ in range(K)]
    embeddings = RNG.normal(0, 1, (K, 6, 2))
    prototypes = class_means(embeddings, labels)
    client, y = embeddings[0], RNG.integers(0, C, 6)
    pulls = [((f - np.array(p)) ** 2).sum() for f, c in zip(client, y, strict=True) if (p := prototypes[c]) is not None]
    teacher = Z.mean(0)
    values = {
        "fedmd": {"mean": mean_of_soft_labels()},
        "dsfl": {"temperature": 0.1, "era": softmax(mean_of_soft_labels() / 0.1)},
        "scarlet": {"beta": 1.7, "era": enhanced_era(1.7)},
        "cfd": {"mean": mean_of_one_hot()},
        "comet": {"options": options, "nearest": nearest_centroid(V[0], options)},
        "weighted_fd": {"teacher": weighted_by_the_label()},
        "selective_fd": {"private": private, "auxiliary": auxiliary, "x": x, "width": 1.3}
        | {v: kulsif(private, auxiliary, x, 1.3, v == "correct") for v in ("correct", "published")},
        "kt_pfl": {"rho": 0.7, "start": start, "coefficients": coefficients(start, 0.7)},
        "fkd": {"labels": labels, "logits": RNG.normal(0, 1, (K, 6, C))},
        "feddf": {"logits": softmax(Z.mean(0)), "probabilities": mean_of_soft_labels()},
        "fedmd_published": {"mean": teacher, "loss": float(np.abs(Z[0] - teacher).mean())},
        "fedproto": {"labels": labels, "embeddings": embeddings, "prototypes": prototypes, "y": y}
        | {"loss": float(sum(pulls)) / client.size},
        "fccl": {"off_diagonal": 0.0051, "loss": cross_correlation(Z[0], teacher, 0.0051)},
    }
    values["fkd"]["means"] = class_means(values["fkd"]["logits"], labels)
    shared = {"logits": Z, "soft_labels": V, "y": Y}
    plain: dict[str, Any] = json.loads(json.dumps({"shared": shared, **values}, default=lambda a: a.tolist()))
    for method, source in SOURCES.items():
        plain[method]["source"] = dict(zip(("repository", "commit", "file", "function"), source, strict=True))
    return plain


if __name__ == "__main__":
    FILE.write_text(json.dumps(derive(), indent=1) + "\n", encoding="utf-8")
