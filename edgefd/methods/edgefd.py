"""EdgeFD: each client answers only for proxy samples that look like its own data (Mujtaba et al., arXiv 2508.14769).

What the paper says and what is chosen here: docs/methods/edgefd.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Bool, Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.context import ClientContext
from edgefd.federation.method import Method, soft_labels
from edgefd.filters.acceptance import AcceptanceRule, acceptance_weights
from edgefd.filters.density_ratio import DensityRatio
from edgefd.filters.estimator import rows_of
from edgefd.filters.kmeans_dre import KMeansDRE
from edgefd.filters.reference import Reference
from edgefd.filters.shift import UNRELATED, effective_share, proxy_shift, proxy_spaces, standardised

_SMALLEST = 1e-4  # weights must be above 0, but a model can be sure that a row is of no class of its client
_TINY = 1e-9  # such a row is divided equally among the client's classes


@dataclass(frozen=True)
class Config:
    """Settings of the filter."""

    estimator: Literal["kmeans", "kde", "knn", "mahalanobis", "isolation_forest", "kulsif"] = "kmeans"
    """density estimator; kde, mahalanobis and isolation_forest need scikit-learn, which devices do not have"""
    n_clusters: int = 50
    """k: number of centroids of a client's private data, for estimator=kmeans"""
    quantile: float = 0.95
    """share of held-out private samples that the filter must accept"""
    threshold: Literal["heldout", "share"] = "heldout"
    """heldout = the quantile of held-out samples alone; share = lowered, unless the proxy set is unrelated, until the
    client accepts as many proxy rows as it can expect to know: exp(H) / C, with the entropy H of its labels"""
    reference: Literal["proxy", "none"] = "proxy"
    """score: proxy = the density ratio to the proxy set; none = the density (for kmeans, the distance) alone"""
    weighting: Literal["hard", "soft"] = "soft"
    """weight of an accepted row: hard = 1; soft = exp(-beta r / T), the confidence of the client"""
    beta: float = 3.0
    """decay rate of soft weights towards the threshold"""
    accept_contributed: bool = True
    """stage 1: accept the rows that the client contributed itself"""
    features: Literal["pixels", "contrast", "pca"] = "pixels"
    """input of the estimator: pixels = the samples; contrast = images and windows with mean 0 and deviation 1 each, so
    that brightness and contrast do not matter (tables as they are); pca = principal components of the samples"""
    n_components: int = 50
    """number of principal components, for features=pca"""
    answers: Literal["model", "own_classes"] = "model"
    """soft labels of accepted rows: model = those of the model; own_classes = restricted to the classes that the client
    has, with a weight times the model's probability that the row is of one of them"""

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
    data, config = ctx.data, ctx.config
    rule = AcceptanceRule(config.quantile, config.weighting, config.beta, config.accept_contributed)
    heldout = filter_rows(config, data.x_heldout)
    return acceptance_weights(fit_estimator(ctx), heldout, _proxy_rows(ctx), data.contributed, rule, _least_share(ctx))


def fit_estimator(ctx: ClientContext) -> KMeansDRE | DensityRatio:
    """Return the estimator of the filter, fitted on the private rows of a client: the state that a device keeps."""
    private, proxy = filter_rows(ctx.config, ctx.data.x), _proxy_rows(ctx)
    scorer = _scorer(ctx.config, int(ctx.rng.integers(2**31)))
    if isinstance(scorer, KMeansDRE):
        return scorer.fit(private, reference=_reference(ctx, proxy))
    return scorer.fit(private, reference=proxy)


def filter_rows(config: Config, x: Float32) -> Float32:
    """Return samples [n, ...] as the rows that the estimator takes, float32 [n, d]."""
    return _of_filter(config)(x)


def _of_filter(config: Config) -> Callable[[Float32], Float32]:
    return standardised if config.features == "contrast" else rows_of


def _proxy_rows(ctx: ClientContext) -> Float32:
    of_filter = _of_filter(ctx.config)
    return ctx.proxy.derived(of_filter, of_filter)


def _reference(ctx: ClientContext, proxy: Float32) -> Reference:
    """Return the fitted proxy set, which is the same for all clients: its seed is that of the federation.

    A device fits it too, instead of taking it from the bundle: to check it would cost as much as to fit it.
    """
    seed = int(make_rng(ctx.terms.seed, Purpose.FILTER).integers(2**31))
    scorer = _scorer(ctx.config, seed)
    assert isinstance(scorer, KMeansDRE)
    return ctx.proxy.derived((KMeansDRE, ctx.config, seed), lambda _: scorer.fit_reference(proxy))


def _scorer(config: Config, seed: int) -> KMeansDRE | DensityRatio:
    features: Literal["pixels", "pca"] = "pca" if config.features == "pca" else "pixels"
    if config.estimator == "kmeans":
        return KMeansDRE(
            config.n_clusters,
            config.reference,
            features=features,
            n_components=config.n_components,
            random_state=seed,
        )
    return DensityRatio(config.estimator, config.reference, features, config.n_components, random_state=seed)


def _least_share(ctx: ClientContext) -> float:
    """Return the share of proxy rows that the client accepts at least: 0 for a proxy set of another kind."""
    data = ctx.data
    if ctx.config.threshold == "heldout":
        return 0.0
    share = effective_share(data.y, ctx.terms.n_classes)
    shift = proxy_shift(data.x, data.x_heldout, ctx.proxy.derived(proxy_spaces, proxy_spaces), share)
    return share if shift is not None and shift < UNRELATED else 0.0


def upload(ctx: ClientContext) -> Knowledge:
    """Return soft labels of the queried and accepted rows, as `method.answers` says."""
    if ctx.config.answers == "model":
        return soft_labels(ctx)
    return of_own_classes(soft_labels(ctx), np.bincount(ctx.data.y, minlength=ctx.terms.n_classes) > 0)


def of_own_classes(answers: Knowledge, own: Bool) -> Knowledge:
    """Restrict soft labels p to the classes that the client has: p(k) / m for its own classes k, with weight w m.

    m = sum of p over its own classes. A client that accepts a row states that the row is like its data, so the label
    can only be one of its own classes. m is the probability that its model gives to this statement. It sets the weight
    of the client relative to the other clients that accept the row.

    >>> k = Knowledge(np.array([4]), np.array([[0.2, 0.2, 0.6]], np.float32), np.ones(1, np.float32))
    >>> restricted = of_own_classes(k, np.array([True, True, False]))
    >>> restricted.values, restricted.weights
    (array([[0.5, 0.5, 0. ]], dtype=float32), array([0.4], dtype=float32))
    """
    p = own * (answers.values.astype(np.float64) + _TINY)
    m = p.sum(1)
    weights = np.clip(answers.weights * m, _SMALLEST, 1)
    return Knowledge(answers.ids, (p / m[:, None]).astype(np.float32), weights.astype(np.float32))


def packages(config: Config) -> tuple[str, ...]:
    """Return the packages that the filter needs in addition to numpy."""
    return () if config.estimator in ("kmeans", "knn", "kulsif") else ("scikit-learn",)


METHOD = Method(
    name="edgefd",
    summary="clients answer only for proxy samples that resemble their own data (KMeans density ratio)",
    config=Config,
    filter=client_filter,
    upload=upload,
    label_aggregation=True,
    remembers=True,
    packages=packages,
)
