"""The record of a contribution, and its effect on the data of a device in a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgefd_client.contribution import (
    RECORD,
    Contribution,
    choose,
    contributed_proxy_rows,
    load_contribution,
    samples_sha256,
    save_contribution,
)
from edgefd_client.sources import NpzSource, client_data, read_samples

from edgefd.core.errors import UserError
from edgefd.federation.clients import Scale
from edgefd.federation.terms import FederationTerms
from edgefd.federation.units import Units
from edgefd.learners.graphs import Graphs
from edgefd.wire.bundle_manifest import SCHEMA, Manifest, PackedSamples
from edgefd.wire.bundle_reader import Bundle

ROWS = np.array([3, 17, 5, 90])


SHAPE, SCALE = (1, 4, 4), Scale((128.3,), (77.1,))


def bundle() -> Bundle:
    """Build a bundle with 20 proxy rows and no model."""
    proxy = SCALE(np.random.default_rng(1).integers(0, 256, (20, *SHAPE)).astype(np.uint8))
    manifest = Manifest(
        schema=SCHEMA,
        opset=0,
        model="none",
        optimizer="sgd",
        batch=8,
        shape=SHAPE,
        scale=(SCALE.mean, SCALE.std),
        state=(),
        constants={},
        files={},
        errors={},
        heldout=0.1,
        n_clients=2,
        terms=FederationTerms("edgefd", {}, "float16", 0, 10, ""),
        units=Units("uint8", 0.0, 255.0, (0.0,), (1.0,)),
        proxy=PackedSamples(20, "uint8", (), False),
    )
    no_graphs: Any = None  # nothing here reads them
    return Bundle(manifest, "", Graphs(b"", b"", (), {}, 8, 10, SHAPE), {}, proxy, {}, no_graphs)


BUNDLE = bundle()


def private(folder: Path) -> tuple[NpzSource, np.ndarray]:
    """Write data whose rows 3, 17 and 5 are the proxy rows 7, 2 and 11. Row 90 is not in the proxy set."""
    x = np.random.default_rng(0).integers(0, 256, (100, *SHAPE)).astype(np.uint8)
    for row, proxy_row in ((3, 7), (17, 2), (5, 11)):
        x[row] = np.rint(BUNDLE.proxy[proxy_row] * SCALE.std + SCALE.mean)
    np.savez(folder / "d.npz", x=x, y=np.arange(100) % 10)
    return NpzSource(folder / "d.npz"), x


@pytest.mark.parametrize("keep", [False, True])
def test_contributed_rows_are_found_and_removed_from_the_private_data(tmp_path: Path, keep: bool) -> None:
    source, x = private(tmp_path)
    data = client_data(read_samples(source, BUNDLE), BUNDLE, 0, Contribution(ROWS, samples_sha256(x[ROWS]), keep))
    assert data.contributed.tolist() == [2, 7, 11]
    assert data.contributed_y is not None
    assert data.contributed_y.tolist() == [7, 3, 5]
    contributed = {BUNDLE.proxy[i].tobytes() for i in data.contributed}
    trained, heldout = ({row.tobytes() for row in part} for part in (data.x, data.x_heldout))
    assert trained & contributed == (contributed if keep else set())
    assert not heldout & contributed  # a sample that every client has is never held out
    assert len(data.x) + len(data.x_heldout) == (100 if keep else 97)  # row 90 is not in the proxy set: still private
    without = client_data(read_samples(source, BUNDLE), BUNDLE, 0)
    assert (len(without.x) + len(without.x_heldout), len(without.contributed)) == (100, 0)


def test_contributed_rows_are_also_removed_if_the_data_name_held_out_samples(tmp_path: Path) -> None:
    source, x = private(tmp_path)
    contribution = Contribution(ROWS, samples_sha256(x[ROWS]), False)
    y, no_rows = np.arange(100) % 10, {"owned": np.array([], int)}
    np.savez(source.path, x=x, y=y, x_heldout=x[:5], y_heldout=np.arange(5), **no_rows)
    data = client_data(read_samples(source, BUNDLE), BUNDLE, 0, contribution)
    assert (len(data.x), len(data.x_heldout), data.contributed.tolist()) == (97, 5, [2, 7, 11])
    np.savez(source.path, x=x, y=y, **{"owned": np.array([1])})
    with pytest.raises(UserError, match="use only one of both"):
        client_data(read_samples(source, BUNDLE), BUNDLE, 0, contribution)


def test_data_without_the_contributed_samples_are_refused(tmp_path: Path) -> None:
    source, x = private(tmp_path)
    for rows, digest in ((ROWS, "00"), (np.array([100]), samples_sha256(x[:1]))):
        with pytest.raises(UserError, match="do not hold the"):
            client_data(read_samples(source, BUNDLE), BUNDLE, 0, Contribution(rows, digest, False))


def test_the_choice_is_stratified_and_determined_by_the_seed() -> None:
    x, y = np.arange(60, dtype=np.uint8)[:, None], np.repeat([0, 1, 2], [30, 20, 10])
    contribution = choose(x, y, 0.1, 5, False)
    assert np.bincount(y[contribution.rows]).tolist() == [3, 2, 1]
    assert contribution.equals(choose(x, y, 0.1, 5, False))
    assert not contribution.equals(choose(x, y, 0.1, 6, False))
    assert not contribution.equals(choose(x, y, 0.1, 5, True))
    assert len(choose(x, y, 0.001, 5, False).rows) == 1


def test_a_proxy_row_that_is_only_similar_is_not_contributed() -> None:
    proxy = np.arange(12, dtype=np.float32).reshape(6, 2)
    ids, used = contributed_proxy_rows(proxy[[4, 1]] + np.array([[0, 0], [1e-6, 0]], np.float32), proxy)
    assert (ids.tolist(), used.tolist()) == ([4], [True, False])


def test_the_record_is_read_as_it_was_written_and_refused_if_damaged(tmp_path: Path) -> None:
    assert load_contribution(tmp_path) is None
    contribution = Contribution(ROWS, "ab", True)
    save_contribution(tmp_path, contribution)
    loaded = load_contribution(tmp_path)
    assert loaded is not None
    assert loaded.equals(contribution)
    for text in ("", "{}", '{"rows": [1, 1], "sha256": "", "keep": true}', '{"rows": [-1], "sha256": "", "keep": 0}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(UserError, match="is not a record of `edgefd-client contribute`"):
            load_contribution(tmp_path)
