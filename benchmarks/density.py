"""Benchmark of KMeansDRE against a vectorised, Cholesky-solved KuLSIF, and of k-means against scikit-learn's KMeans.

Run: python -m benchmarks.density [n ...]
The data are MNIST images (EDGEFD_DATA must contain MNIST). All timings use one thread, and memory is measured in new
processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from benchmarks.pairing import Ratio, ratio, summary, take_turns
from benchmarks.processes import memory
from edgefd.core.arrays import Float32
from edgefd.data.datasets import download_hint, find_dataset, load_dataset
from edgefd.federation.clients import scale_of
from edgefd.filters.kmeans import kmeans, squared_distances
from edgefd.filters.kmeans_dre import KMeansDRE

DATASET = "mnist"  # mnist_mini has too few images
SCORED = 5000


def missing_data() -> str | None:
    """Return that the data set is missing and how to get it, or None if it is there."""
    return None if find_dataset(DATASET) else f"{DATASET} is missing: {download_hint(DATASET)}"


def images(n: int) -> tuple[Float32, Float32, Float32]:
    """Return private rows [n], auxiliary rows [n] and `SCORED` rows to score, of MNIST."""
    data = load_dataset(DATASET)
    x = scale_of(data.x_train)(data.x_train).reshape(len(data.x_train), -1)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order[:n]], x[order[n : 2 * n]], x[order[-SCORED:]]


class KuLSIF:
    """Kernel unconstrained least-squares importance fitting (Kanamori et al. 2012), implemented as cheaply as possible.

        a = -(1 / (n m lambda)) (K11 / n + lambda I)^-1 K12 1
        r(x) = sum_i a_i k(x, u_i) + (1 / (m lambda)) sum_j k(x, y_j)

    with Gaussian kernels by matrix product in float32, and the solve by Cholesky: K11 / n + lambda I is symmetric and
    positive definite. Private samples y_1..y_m, auxiliary samples u_1..u_n, lambda = n^-1/2, width by the
    median heuristic.
    """

    def fit(self, private: Float32, auxiliary: Float32) -> KuLSIF:
        """Solve for the coefficients of the auxiliary samples."""
        n, m = len(auxiliary), len(private)
        self.private, self.auxiliary = private, auxiliary
        some = auxiliary[:200]
        self.width = float(np.median(squared_distances(some, some, (some**2).sum(1)))) / 2
        self.lam = n**-0.5
        left = self._kernel(auxiliary, auxiliary)
        left /= n
        left.flat[:: n + 1] += self.lam
        right = self._kernel(auxiliary, private).sum(1)
        solved = cho_solve(cho_factor(left, overwrite_a=True, check_finite=False), right, check_finite=False)
        self.coefficients = -solved / (n * m * self.lam)
        return self

    def score(self, x: Float32) -> Float32:
        """Return r(x)."""
        private_term = self._kernel(x, self.private).sum(1) / (len(self.private) * self.lam)
        out: Float32 = self._kernel(x, self.auxiliary) @ self.coefficients.astype(np.float32) + private_term
        return out

    def _kernel(self, a: Float32, b: Float32) -> Float32:
        distances = squared_distances(a, b, np.einsum("ij,ij->i", a, a))
        distances /= -2 * self.width
        out: Float32 = np.exp(distances, out=distances)
        return out


def compare(n: int, turns: int = 5) -> list[Ratio]:
    """Return the ratios of the times of fitting and scoring, and of the extra memory."""
    private, auxiliary, scored = images(n)
    ours, theirs = KMeansDRE(10).fit(private, reference=auxiliary), KuLSIF().fit(private, auxiliary)
    ratios = []
    with threadpool_limits(1):
        fit = take_turns(
            {
                "ours": lambda: KMeansDRE(10, reference="none").fit(private),
                "ratio": lambda: KMeansDRE(10).fit(private, reference=auxiliary),
                "kulsif": lambda: KuLSIF().fit(private, auxiliary),
            },
            turns,
        )
        score = take_turns({"ours": lambda: ours.score_samples(scored), "kulsif": lambda: theirs.score(scored)}, turns)
    ratios.append(ratio(f"KMeansDRE k=10 fit, n={n}", "KuLSIF", fit["kulsif"], fit["ours"]))
    ratios.append(ratio(f"KMeansDRE k=10 fit with reference, n={n}", "KuLSIF", fit["kulsif"], fit["ratio"]))
    ratios.append(ratio(f"KMeansDRE k=10 score {SCORED} rows, n={n}", "KuLSIF", score["kulsif"], score["ours"]))
    extra = extra_memory("kulsif", n) / max(extra_memory("ours", n), 1)
    ratios.append(Ratio(f"KMeansDRE k=10 extra memory, n={n}", "KuLSIF", extra, extra, extra))
    return ratios


def against_sklearn(n: int, k: int, turns: int = 5) -> list[Ratio]:
    """Return the ratios of time and inertia of one k-means++ start, over the same seeds."""
    x = images(n)[0]
    ours, theirs, inertia = [], [], []
    with threadpool_limits(1):
        for seed in range(turns):
            results: dict[str, float] = {}

            def run_ours(seed: int = seed, results: dict[str, float] = results) -> None:
                results["ours"] = kmeans(x, k, np.random.default_rng(seed))[1]

            def run_sklearn(seed: int = seed, results: dict[str, float] = results) -> None:
                results["theirs"] = KMeans(k, n_init=1, random_state=seed, max_iter=100).fit(x).inertia_

            seconds = take_turns({"ours": run_ours, "theirs": run_sklearn}, 1, warm_up=1)
            ours += seconds["ours"]
            theirs += seconds["theirs"]
            inertia.append(results["theirs"] / results["ours"])
    return [
        ratio(f"KMeans k={k}, n={n}, time", "scikit-learn", theirs, ours),
        summary(f"KMeans k={k}, n={n}, inertia", "scikit-learn", inertia),
    ]


def extra_memory(which: str, n: int) -> int:
    """Return the peak memory in bytes beyond that of the data, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.density", "--memory", which, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return int(json.loads(done.stdout))


def _measure_memory(which: str, n: int) -> int:
    private, auxiliary, scored = images(n)
    tiny = private[:20]  # import everything and let every library allocate its buffers before the baseline is taken
    KMeansDRE(2).fit(tiny, reference=tiny).score_samples(tiny)
    KuLSIF().fit(tiny, tiny).score(tiny)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    baseline = memory()
    if which == "ours":
        KMeansDRE(10).fit(private, reference=auxiliary).score_samples(scored)
    else:
        KuLSIF().fit(private, auxiliary).score(scored)
    return round((memory() - baseline) * 2**20)


if __name__ == "__main__":
    if problem := missing_data():
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    if sys.argv[1:2] == ["--memory"]:
        print(_measure_memory(sys.argv[2], int(sys.argv[3])))
    else:
        for size in [int(a) for a in sys.argv[1:]] or [1000, 2000, 4000]:
            for line in compare(size):
                print(line)
        for clusters in (10, 50):
            for line in against_sklearn(4000, clusters):
                print(line)
