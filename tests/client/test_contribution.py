"""What a device has contributed, and what follows from it in a run."""

from pathlib import Path

import numpy as np
import pytest
from edgefd_client.contribution import (
    RECORD,
    Contribution,
    choose,
    load_contribution,
    own_rows,
    samples_sha256,
    save_contribution,
)
from edgefd_client.sources import NpzSource, client_data

from edgefd.core.errors import UserError
from edgefd.federation.clients import Scale
from edgefd.federation.terms import FederationTerms
from edgefd.learners.graphs import Graphs
from edgefd.wire.bundle_manifest import SCHEMA, Manifest
from edgefd.wire.bundle_reader import Bundle

ROWS = np.array([3, 17, 5, 90])


SHAPE, SCALE = (1, 4, 4), Scale(128.3, 77.1)


def bundle() -> Bundle:
    """One with 20 proxy rows, and nothing to train."""
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
        terms=FederationTerms("edgefd", {}, "float16", 0, 10, ""),
    )
    return Bundle(manifest, "", Graphs(b"", b"", (), {}, 8, 10, SHAPE), {}, proxy, {})


BUNDLE = bundle()


def private(folder: Path) -> tuple[NpzSource, np.ndarray]:
    """Data of which rows 3, 17 and 5 are in the bundle's proxy set, as proxy rows 7, 2 and 11, and 90 is not."""
    x = np.random.default_rng(0).integers(0, 256, (100, *SHAPE)).astype(np.uint8)
    for row, proxy in ((3, 7), (17, 2), (5, 11)):
        x[row] = np.rint(BUNDLE.proxy[proxy] * SCALE.std + SCALE.mean)
    np.savez(folder / "d.npz", x=x, y=np.arange(100) % 10)
    return NpzSource(folder / "d.npz"), x


@pytest.mark.parametrize("keep", [False, True])
def test_own_rows_are_found_and_leave_the_private_data(tmp_path: Path, keep: bool) -> None:
    source, x = private(tmp_path)
    given = Contribution(ROWS, samples_sha256(x[ROWS]), keep)
    data = client_data(source, BUNDLE, 0, given)
    assert data.contributed.tolist() == [2, 7, 11]
    assert data.contributed_y is not None
    assert data.contributed_y.tolist() == [7, 3, 5]
    mine = {BUNDLE.proxy[i].tobytes() for i in data.contributed}
    trained, held = ({row.tobytes() for row in part} for part in (data.x, data.x_heldout))
    assert trained & mine == (mine if keep else set())
    assert not held & mine  # what everybody has is never held out
    assert len(data.x) + len(data.x_heldout) == (100 if keep else 97)  # row 90 is in nobody else's hands
    without = client_data(source, BUNDLE, 0)
    assert (len(without.x) + len(without.x_heldout), len(without.contributed)) == (100, 0)


def test_data_that_say_what_is_held_out_lose_their_own_rows_too(tmp_path: Path) -> None:
    source, x = private(tmp_path)
    np.savez(
        source.path, x=x, y=np.arange(100) % 10, x_heldout=x[:5], y_heldout=np.arange(5), **{"owned": np.array([], int)}
    )
    data = client_data(source, BUNDLE, 0, Contribution(ROWS, samples_sha256(x[ROWS]), False))
    assert (len(data.x), len(data.x_heldout), data.contributed.tolist()) == (97, 5, [2, 7, 11])
    np.savez(source.path, x=x, y=np.arange(100) % 10, **{"owned": np.array([1])})
    with pytest.raises(UserError, match="not both"):
        client_data(source, BUNDLE, 0, Contribution(ROWS, samples_sha256(x[ROWS]), False))


def test_other_data_than_those_that_were_given_of_are_refused(tmp_path: Path) -> None:
    source, x = private(tmp_path)
    for rows, digest in ((ROWS, "00"), (np.array([100]), samples_sha256(x[:1]))):
        with pytest.raises(UserError, match="do not hold the"):
            client_data(source, BUNDLE, 0, Contribution(rows, digest, False))


def test_the_choice_is_stratified_and_the_seeds() -> None:
    x, y = np.arange(60, dtype=np.uint8)[:, None], np.repeat([0, 1, 2], [30, 20, 10])
    given = choose(x, y, 0.1, 5, False)
    assert np.bincount(y[given.rows]).tolist() == [3, 2, 1]
    assert given.equals(choose(x, y, 0.1, 5, False))
    assert not given.equals(choose(x, y, 0.1, 6, False))
    assert not given.equals(choose(x, y, 0.1, 5, True))
    assert len(choose(x, y, 0.001, 5, False).rows) == 1


def test_no_row_is_own_that_only_resembles() -> None:
    proxy = np.arange(12, dtype=np.float32).reshape(6, 2)
    ids, there = own_rows(proxy[[4, 1]] + np.array([[0, 0], [1e-6, 0]], np.float32), proxy)
    assert (ids.tolist(), there.tolist()) == ([4], [True, False])


def test_the_record_is_what_was_written_or_refused(tmp_path: Path) -> None:
    assert load_contribution(tmp_path) is None
    given = Contribution(ROWS, "ab", True)
    save_contribution(tmp_path, given)
    found = load_contribution(tmp_path)
    assert found is not None
    assert found.equals(given)
    for text in ("", "{}", '{"rows": [1, 1], "sha256": "", "keep": true}', '{"rows": [-1], "sha256": "", "keep": 0}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(UserError, match="is not what `edgefd-client contribute` wrote"):
            load_contribution(tmp_path)
