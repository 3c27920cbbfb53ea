"""Export the private data of each simulated client to a file, for real client processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.core.files import PRIVATE, folder_mode, put, removed_on_error
from edgefd.core.npz import npz_bytes
from edgefd.data.labels import Names, labels_of
from edgefd.federation.clients import RAW, ClientData
from edgefd.runs.load_data import federate, load_raw
from edgefd.runs.prepare import PreparedRun


def export_client_data(prepared: PreparedRun, out: Path) -> list[Path]:
    """Write out/client-000.npz and so on; return their paths.

    Only their owner can read them. Each file holds raw x, y, x_heldout, y_heldout; owned, the ids of the client's
    contributed proxy rows; and owned_y, the labels of these rows, if the client knows them. The samples are raw, before
    any extractor: devices run it. Labels are those of the source of the data, which devices map as the simulation does.

    Raises:
        UserError: if `out` exists, or cannot be written.
    """
    dataset = load_raw(prepared.config)
    kind = dataset.x_train.dtype
    federation = prepared.config.method.transform(federate(prepared.config, dataset, RAW))
    paths = [out / f"client-{data.client:03d}.npz" for data in federation.clients]
    try:
        with removed_on_error(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.mkdir(mode=folder_mode(PRIVATE))
            for path, data in zip(paths, federation.clients, strict=True):
                put(path, npz_bytes(_arrays(data, kind, dataset.label_names)))
    except FileExistsError:
        raise UserError(f"{out} exists already: choose another folder, or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return paths


def _arrays(data: ClientData, kind: np.dtype[Any], names: Names) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a client's file; `kind` is the type of the raw samples, `names` are those of the classes."""
    arrays = {"x": data.x.astype(kind), "y": labels_of(data.y, names), "x_heldout": data.x_heldout.astype(kind)}
    arrays |= {"y_heldout": labels_of(data.y_heldout, names), "owned": data.contributed}
    return arrays if data.contributed_y is None else arrays | {"owned_y": labels_of(data.contributed_y, names)}
