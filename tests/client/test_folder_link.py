"""A device and a coordinator that exchange files in a folder: refused reports, invalid plans, the end of the run."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.folder_link import join

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import put
from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Exchange, Report
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, PLAN, report_file, round_folder
from tests.support.federations import ExportedFederation, round_plan
from tests.support.waiting import until


def report(
    client: int = 0, round: int = 0, ids: tuple[int, ...] = (0, 2), width: int = 10, codec: str = "float16"
) -> bytes:
    n = len(ids)
    knowledge = Knowledge(np.array(ids), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))
    return wire.encode_report(Report(client, round, knowledge), codec)


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        (b"\xff\xff", "not an edgefd.v1.Report"),
        (report(client=1), "client 1"),
        (report(round=4), "for round 4, not for round 0"),
        (report(codec="float32"), "codec 1, but float16"),
        (report(ids=(0, 10**6)), "row 1000000"),
        (report(width=9), "9 values per row"),
        (bytes(2**20), "larger than"),
    ],
    ids=["not_a_report", "client", "round", "codec", "row", "width", "size"],
)
def test_the_coordinator_refuses_an_invalid_report_and_accepts_its_replacement(
    federation: ExportedFederation, tmp_path: Path, invalid: bytes, reason: str
) -> None:
    with federation.open(tmp_path, timeout=20) as transport:
        exchanges: list[Exchange] = []
        thread = threading.Thread(
            target=lambda: exchanges.append(transport.exchange(round_plan(federation), range(3), None)), daemon=True
        )
        thread.start()
        until(lambda: (round_folder(tmp_path, 0) / PLAN).exists(), 20)
        for client in (1, 2):
            put(report_file(tmp_path, 0, client), report(client))
        path = report_file(tmp_path, 0, 0)
        put(path, invalid)
        refused = path.with_suffix(".refused")
        until(refused.exists, 20)
        assert reason in refused.read_text()
        assert not exchanges
        link = join(tmp_path, 0, federation.read().manifest.terms)
        with pytest.raises(RunError, match="refused the report of round 0"):
            link.next_task(0, federation.expected)
        with pytest.raises(RunError, match="another report of client 0"):
            link.submit(report(), 0)
        put(path, report())
        thread.join(timeout=20)
        assert sorted(r.client for r in exchanges[0].reports) == [0, 1, 2]
        assert not refused.exists()


def test_the_coordinator_stops_at_its_timeout_and_names_the_missing_clients(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    put(report_file(tmp_path, 0, 0), b"?")
    (round_folder(tmp_path, 0) / "reports" / "1.bin").mkdir()
    with (
        federation.open(tmp_path, timeout=0.5) as transport,
        pytest.raises(
            RunError,
            match=r"0 of 3 reports.*no report of client 2; that of client 0 was refused .*client 1 .*needs all",
        ),
    ):
        transport.exchange(round_plan(federation), range(3), None)
    for client in (0, 1):
        assert report_file(tmp_path, 0, client).with_suffix(".refused").exists()


def test_join_refuses_an_unknown_client_and_a_bundle_of_another_federation(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    with federation.open(tmp_path):
        terms = federation.read().manifest.terms
    with pytest.raises(UserError, match="from 0 to 2"):
        join(tmp_path, 3, terms)
    with pytest.raises(UserError, match=r"\(codec, seed differ\)"):
        join(tmp_path, 0, dataclasses.replace(terms, seed=1, codec="uint8"))


def test_an_invalid_plan_and_the_end_of_the_run_are_reported(federation: ExportedFederation, tmp_path: Path) -> None:
    with federation.open(tmp_path) as transport:
        link = join(tmp_path, 0, federation.read().manifest.terms)
        put(round_folder(tmp_path, 0) / PLAN, b"\xff")
        with pytest.raises(RunError, match="cannot read the message of the coordinator"):
            link.next_task(-1, federation.expected)
        put(round_folder(tmp_path, 0) / PLAN, wire.encode_plan(round_plan(federation, 1)))
        with pytest.raises(RunError, match="a plan of round 1"):
            link.next_task(-1, federation.expected)
        transport.finish("the disk is full")
        with pytest.raises(RunError, match="stopped: the disk is full"):
            link.next_task(-1, federation.expected)
    with federation.open(tmp_path) as transport:
        transport.finish(COMPLETE)
        assert link.next_task(-1, federation.expected) is None
