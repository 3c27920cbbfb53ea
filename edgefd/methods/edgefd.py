"""EdgeFD: each client answers only for proxy samples that look like its own data (Mujtaba et al., arXiv 2508.14769).

What the paper says and what is chosen here: docs/methods/edgefd.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.method import Method
from edgefd.filters.acceptance import AcceptanceRule, Scorer, acceptance_weights
from edgefd.filters.density_ratio import DensityRatio
from edgefd.filters.kmeans_dre import KMeansDRE


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the filter."""

    estimator: Literal["kmeans", "kde", "knn", "mahalanobis", "isolation_forest", "kulsif"] = "kmeans"
    """what estimates densities; kde, mahalanobis and isolation_forest need scikit-learn, which a device has not"""
    n_clusters: int = 50
    """k: centroids of a client's private data, for kmeans"""
    quantile: float = 0.95
    """share of held-out private data that the filter must accept"""
    reference: Literal["proxy", "none"] = "proxy"
    """score by the ratio to the proxy set's own centroids, or by plain distance"""
    weighting: Literal["hard", "soft"] = "soft"
    """weight of a claimed row: 1, or exp(-beta r / T), the client's own confidence"""
    beta: float = 3.0
    """how fast soft weights fall towards the threshold"""
    accept_contributed: bool = True
    """stage 1: rows that the client contributed are its own"""
    features: Literal["pixels", "pca"] = "pixels"
    n_components: int = 50
    """dimensions that features=pca keeps"""

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError("quantile must be in (0, 1]")
        if self.n_clusters < 1 or self.n_components < 1:
            raise ValueError("n_clusters and n_components must be at least 1")
        if self.beta < 0:
            raise ValueError("beta must not be negative")
        if self.estimator == "kulsif" and self.reference == "none":
            raise ValueError("estimator=kulsif is a ratio: it needs reference=proxy")
        if self.estimator != "kmeans" and self.n_clusters != Config.n_clusters:
            raise ValueError(f"n_clusters is for estimator=kmeans, {self.estimator} has no clusters: leave it out")


def client_filter(data: ClientData, proxy: ProxySet, config: Config, rng: np.random.Generator) -> Float32:
    """The estimator on the private rows, threshold from the held-out ones, claims on the proxy rows."""
    seed = int(rng.integers(2**31))
    scorer: Scorer
    if config.estimator == "kmeans":
        scorer = KMeansDRE(
            config.n_clusters,
            config.reference,
            features=config.features,
            n_components=config.n_components,
            random_state=seed,
        ).fit(data.x, reference=proxy.x)
    else:
        scorer = DensityRatio(
            config.estimator, config.reference, config.features, config.n_components, random_state=seed
        ).fit(data.x, reference=proxy.x)
    rule = AcceptanceRule(config.quantile, config.weighting, config.beta, config.accept_contributed)
    return acceptance_weights(scorer, data.x_heldout, proxy.x, data.contributed, rule)


def packages(config: Config) -> tuple[str, ...]:
    """What the filter needs beside numpy."""
    return () if config.estimator in ("kmeans", "knn", "kulsif") else ("scikit-learn",)


METHOD = Method(
    name="edgefd",
    summary="clients answer only for proxy samples that resemble their own data (KMeans density ratio)",
    config=Config,
    client_filter=client_filter,
    packages=packages,
)
