"""The status board: it sums the metrics of a run and limits the number of points in a curve."""

from edgefd_server.monitoring.status import MAX_POINTS, MetricPoint, StatusBoard, thinned

from tests.support.status_boards import DESCRIPTION, empty_fleet, round_metrics


def test_the_board_sums_bytes_and_passes_rounds_on() -> None:
    board = StatusBoard(DESCRIPTION, empty_fleet)
    board.begin("mine", [round_metrics(0)])
    passed_on = list(board.watching(lambda rounds: rounds)(iter([round_metrics(1), round_metrics(2)])))
    assert [m.round for m in passed_on] == [1, 2]
    status = board.status()
    assert [(p.round, p.up, p.down) for p in status.points] == [(0, 10, 20), (1, 20, 40), (2, 30, 60)]
    assert (status.run, status.done, status.seconds, status.ended) == ("mine", 3, 4.5, None)


def test_curves_of_many_rounds_are_thinned_and_keep_the_last_round() -> None:
    points = [MetricPoint(r, False, None, None, None, 0.0, r, r, 1.0) for r in range(12_345)]
    shown = thinned(points, MAX_POINTS)
    assert len(shown) <= MAX_POINTS
    assert (shown[0].round, shown[-1].round) == (0, 12_344)
    assert thinned(points[:MAX_POINTS], MAX_POINTS) == tuple(points[:MAX_POINTS])
