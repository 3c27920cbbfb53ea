# What:   Write the files of a split of MNIST into clients and proxy set: partition files and proxy.npz.
# Run:    python simulations/reproduce/weighted_fd/make_split.py [SPLIT.npz] [--out FOLDER]
# Needs:  MNIST: `edgefd datasets --download mnist` (11 MB), or EDGEFD_DATA set to a folder that contains it.
# Takes:  seconds.
"""Write the proxy set and the partitions of the Weighted-FD reproduction, from a file of indices or drawn anew.

The file of indices has arrays of rows of MNIST's training images: `proxy`, and for ten clients `iid0` ... `iid9` and
`hni0` ... `hni9` (one class each). Without a file, a split of the same sizes is drawn: 12,000 proxy rows, 3,000 rows
that nobody uses, and 45,000 rows for the clients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgefd.data.datasets import load_dataset

CLIENTS = 10
PROXY, UNUSED = 12_000, 3_000
SEED = 0


def drawn(y: np.ndarray) -> dict[str, np.ndarray]:
    """Return a new split of the sizes of the published one."""
    order = np.random.default_rng(SEED).permutation(len(y))
    private = order[PROXY + UNUSED :]
    iid = {f"iid{i}": rows for i, rows in enumerate(np.array_split(private, CLIENTS))}
    return {"proxy": order[:PROXY], **iid, **{f"hni{i}": private[y[private] == i] for i in range(CLIENTS)}}


def main() -> None:
    """Write proxy.npz, iid.npz and one_class.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", nargs="?", type=Path, help="npz file of indices (default: draw a split)")
    parser.add_argument("--out", type=Path, default=Path("runs/weighted_fd_split"), help="folder of the files")
    arguments = parser.parse_args()
    data = load_dataset("mnist")
    split = dict(np.load(arguments.split)) if arguments.split else drawn(data.y_train)
    arguments.out.mkdir(parents=True, exist_ok=True)
    proxy = split["proxy"]
    np.savez(arguments.out / "proxy.npz", x=data.x_train[proxy], y=data.y_train[proxy])
    for name, prefix in (("iid", "iid"), ("one_class", "hni")):
        parts = {f"client_{i}": split[f"{prefix}{i}"] for i in range(CLIENTS)}
        np.savez(arguments.out / f"{name}.npz", **parts)
    print(f"wrote {arguments.out}: proxy.npz, iid.npz, one_class.npz")


if __name__ == "__main__":
    main()
