"""EdgeFD: each client answers only for proxy samples that look like its own data (Mujtaba et al., arXiv 2508.14769).

What the paper says and what is chosen here: docs/methods/edgefd.md.
"""

from dataclasses import dataclass
from typing import Literal

from edgefd.core.arrays import Float32
from edgefd.federation.context import ClientContext
from edgefd.federation.method import Method
from edgefd.filters.acceptance import AcceptanceRule, Scorer, acceptance_weights
from edgefd.filters.density_ratio import DensityRatio
from edgefd.filters.kmeans_dre import KMeansDRE


@dataclass(frozen=True)
class Config:
    """Settings of the filter."""

    estimator: Literal["kmeans", "kde", "knn", "mahalanobis", "isolation_forest", "kulsif"] = "kmeans"
    """density estimator; kde, mahalanobis and isolation_forest need scikit-learn, which devices do not have"""
    n_clusters: int = 50
    """k: number of centroids of a client's private data, for estimator=kmeans"""
    quantile: float = 0.95
    """share of held-out private samples that the filter must accept"""
    reference: Literal["proxy", "none"] = "proxy"
    """score: proxy = the density ratio to the proxy set; none = the density (for kmeans, the distance) alone"""
    weighting: Literal["hard", "soft"] = "soft"
    """weight of an accepted row: hard = 1; soft = exp(-beta r / T), the confidence of the client"""
    beta: float = 3.0
    """decay rate of soft weights towards the threshold"""
    accept_contributed: bool = True
    """stage 1: accept the rows that the client contributed itself"""
    features: Literal["pixels", "pca"] = "pixels"
    """input of the estimator: the samples themselves, or their principal components"""
    n_components: int = 50
    """number of principal components, for features=pca"""

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


def client_filter(ctx: ClientContext) -> Float32:
    """Fit the estimator on private rows and the threshold on held-out rows; return the weights of the proxy rows."""
    data, proxy, config = ctx.data, ctx.proxy, ctx.config
    seed = int(ctx.rng.integers(2**31))
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
    """Return the packages that the filter needs in addition to numpy."""
    return () if config.estimator in ("kmeans", "knn", "kulsif") else ("scikit-learn",)


METHOD = Method(
    name="edgefd",
    summary="clients answer only for proxy samples that resemble their own data (KMeans density ratio)",
    config=Config,
    filter=client_filter,
    label_aggregation=True,
    remembers=True,
    packages=packages,
)
