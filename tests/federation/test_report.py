"""Counting the bytes of an exchange: those of the messages as they were sent, and none for knowledge without rows."""

from __future__ import annotations

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.report import Report, count_exchange
from edgefd.wire import messages as wire
from edgefd.wire.codecs import CODECS
from tests.support.expectations import report_like

SOFT = Knowledge(np.array([1, 4]), np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32), np.ones(2, np.float32))
NO_ROWS = empty(3)


@pytest.mark.parametrize("codec", CODECS)
def test_a_received_report_has_the_size_of_its_knowledge_as_it_was_sent(codec: str) -> None:
    sent = Report(0, 2, SOFT, {"heldout_accuracy": 0.5})
    received = wire.decode_report(wire.encode_report(sent, codec), report_like(sent, codec))
    assert sent.knowledge_bytes == 0
    assert received.knowledge_bytes == len(wire.encode(SOFT, codec)) > 0


def test_the_knowledge_of_a_report_without_rows_is_not_counted() -> None:
    sent = [Report(c, 0, k) for c, k in enumerate([SOFT, NO_ROWS])]
    reports = [wire.decode_report(wire.encode_report(r, "float32"), report_like(r, "float32")) for r in sent]
    assert reports[1].knowledge_bytes > 0
    exchange = count_exchange(reports, 30)
    assert exchange.reports == reports
    assert (exchange.bytes_up, exchange.bytes_down) == (len(wire.encode(SOFT, "float32")), 30)
