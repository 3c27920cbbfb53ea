"""Export the private data of each simulated client to a file, for real client processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError
from edgefd.federation.clients import RAW
from edgefd.runs.load_data import federate, load_raw
from edgefd.runs.prepare import PreparedRun


def export_client_data(prepared: PreparedRun, out: Path) -> list[Path]:
    """Write out/client-000.npz and so on; return their paths.

    Each file holds raw x, y, x_heldout, y_heldout; owned, the ids of the client's contributed proxy rows; and owned_y,
    the labels of these rows, if the client knows them. The samples are raw, before any extractor: devices run it.

    Raises:
        UserError: if `out` exists, or cannot be written.
    """
    dataset = load_raw(prepared.config)
    kind = dataset.x_train.dtype
    federation = prepared.config.method.transform(federate(prepared.config, dataset, RAW))
    paths = []
    try:
        out.mkdir(parents=True)
        for data in federation.clients:
            paths.append(out / f"client-{data.client:03d}.npz")
            np.savez_compressed(
                paths[-1],
                allow_pickle=False,
                x=data.x.astype(kind),
                y=data.y,
                x_heldout=data.x_heldout.astype(kind),
                y_heldout=data.y_heldout,
                **{"owned": data.contributed},
                **({} if data.contributed_y is None else {"owned_y": data.contributed_y}),
            )
    except FileExistsError:
        raise UserError(f"{out} exists already: choose another folder, or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return paths
