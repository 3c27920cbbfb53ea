"""Publishing only changed rows: both sides have the same rows, and no row differs by more than the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.changes import Changes, Published, applied, changes_since, digest_of, published, published_of
from tests.support.strategies import knowledge
from tests.support.votes import votes

THRESHOLDS = st.sampled_from([0.0, 0.1, 0.4])


def rounds_of(states: list[Knowledge], above: float) -> list[Published]:
    sent: list[Published] = []
    for round, state in enumerate(states):
        sent.append(published(sent[-1] if sent else None, state, round, above))
    return sent


@given(st.lists(knowledge(), min_size=1, max_size=6), THRESHOLDS)
@settings(deadline=None)
def test_the_changes_since_any_earlier_state_lead_to_the_newest(states: list[Knowledge], above: float) -> None:
    sent = rounds_of(states, above)
    for earlier in sent:
        changes = changes_since(sent[-1], earlier.digest)
        assert changes is not None
        newest = applied(earlier.knowledge, changes)
        assert newest.equals(sent[-1].knowledge)
        assert digest_of(newest) == sent[-1].digest


@given(st.lists(knowledge(), min_size=1, max_size=6), THRESHOLDS)
@settings(deadline=None)
def test_no_published_row_is_further_from_its_label_than_the_threshold(states: list[Knowledge], above: float) -> None:
    for state, sent in zip(states, rounds_of(states, above), strict=True):
        assert np.array_equal(sent.knowledge.ids, state.ids)
        distance = np.abs(sent.knowledge.values.astype(np.float64) - state.values).sum(1) / 2
        assert (distance <= above).all()
        assert (np.abs(sent.knowledge.weights.astype(np.float64) - state.weights) <= above).all()


def test_slow_changes_add_up_until_they_are_sent() -> None:
    shares = [0.50, 0.56, 0.62, 0.68]
    sent = rounds_of([votes([7], [[p, 1 - p]]) for p in shares], 0.1)
    assert [float(each.knowledge.values[0, 0]) for each in sent] == pytest.approx([0.50, 0.50, 0.62, 0.62])
    assert [each.rounds.tolist() for each in sent] == [[0], [0], [2], [2]]


def test_only_changed_and_removed_rows_are_sent() -> None:
    first, second = votes([1, 2, 3], [[1, 0], [0, 1], [0.5, 0.5]]), votes([1, 3, 4], [[1, 0], [0, 1], [0, 1]])
    sent = rounds_of([first, second], 0.0)
    changes = changes_since(sent[1], digest_of(first))
    assert changes is not None
    assert changes.rows.ids.tolist() == [3, 4]
    assert changes.removed.tolist() == [2]


def test_an_unknown_state_has_no_changes() -> None:
    sent = published(None, votes([1], [[1, 0]]), 0, 0.0)
    assert changes_since(sent, b"12345678") is None
    assert changes_since(sent, b"") is None


def test_a_sender_remembers_the_newest_256_states() -> None:
    states = [votes([0], [[round / 512, 1 - round / 512]]) for round in range(300)]
    sent = rounds_of(states, 0.0)
    assert changes_since(sent[-1], sent[43].digest) is None
    assert changes_since(sent[-1], sent[44].digest) is not None


def test_a_removed_row_need_not_be_held_but_must_not_be_sent() -> None:
    held = votes([1], [[1, 0]])
    assert applied(held, Changes(digest_of(held), empty(2), np.array([2]))).equals(held)
    with pytest.raises(ValueError, match="must not be sent"):
        applied(held, Changes(digest_of(held), held, np.array([1])))


@given(st.lists(knowledge(), min_size=1, max_size=4))
def test_arrays_hold_everything_that_was_published(states: list[Knowledge]) -> None:
    sent = rounds_of(states, 0.1)[-1]
    again = published_of(sent.to_arrays())
    assert again.knowledge.equals(sent.knowledge)
    for name in ("rounds", "removed", "removed_rounds", "states", "state_rounds"):
        assert np.array_equal(getattr(again, name), getattr(sent, name))


def test_incomplete_arrays_are_refused() -> None:
    arrays = published(None, votes([1], [[1, 0]]), 0, 0.0).to_arrays()
    with pytest.raises(ValueError, match="one round for each row"):
        published_of({**arrays, "rounds": np.zeros(3, np.int64)})
    with pytest.raises(KeyError):
        published_of({name: v for name, v in arrays.items() if name != "ids"})
