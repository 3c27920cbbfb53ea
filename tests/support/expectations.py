"""What a receiver expects in tests of messages."""

from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report
from edgefd.federation.values import ValueRange
from edgefd.methods import get_method
from edgefd.rounds.validation import expected_teacher
from edgefd.wire import messages as wire
from edgefd.wire.expected import Expected, ExpectedReport
from tests.support.rounds import INFO

ANY_NUMBER = ValueRange("numbers", -1e30, 1e30)


def shape(width: int, codec: str = "float32", rows: int = 12) -> Expected:
    """Return the expectation of up to `rows` rows of `width` values, which may be any numbers."""
    return Expected(range(rows), range(width, width + 1), codec, ANY_NUMBER, 0.0)


def shape_of(k: Knowledge, codec: str) -> Expected:
    """Return the expectation of knowledge with the ids and the width of `k`."""
    return Expected(k.ids, range(k.width, k.width + 1), codec, ANY_NUMBER, 0.0)


def sent_and_received(k: Knowledge, codec: str) -> Knowledge:
    """Return knowledge after it was encoded and decoded."""
    return wire.decode(wire.encode(k, codec), shape_of(k, codec))


def report_like(report: Report, codec: str) -> ExpectedReport:
    """Return the expectation of a report with the rows and the metrics of `report`."""
    return ExpectedReport(report.round, shape_of(report.knowledge, codec), dict.fromkeys(report.metrics, (-9.0, 9.0)))


TEACHER = expected_teacher(get_method(INFO.terms.method), INFO.terms, 5, INFO.n_clients)
"""what the clients of `tests.support.rounds` expect of a teacher of five rows"""
