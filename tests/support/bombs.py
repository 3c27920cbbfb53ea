"""Messages that are small, or as large as a receiver allows, and claim far more than they hold."""

import sys
from pathlib import Path

import numpy as np
from edgefd_client.link import read_task
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator

from edgefd.core.errors import RunError
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.methods import get_method
from edgefd.rounds.validation import ExpectedTask, expected_teacher
from edgefd.wire import messages as wire
from tests.support.federations import ignore_event

ROWS, CLASSES, CODEC = 2000, 10, "uint8"
TERMS = FederationTerms("fedmd", {}, CODEC, 0, CLASSES, "")
PLAN = RoundPlan(0, np.arange(ROWS))


def knowledge_bombs(room: int) -> dict[str, pb.Knowledge]:
    """Return knowledge that claims much memory, by form; messages of `room` bytes are as large as is allowed."""
    uint8, label = pb.CODEC_UINT8, pb.CODEC_LABEL
    many, scaled = [1] * (room - 40), np.full((1, CLASSES), 1e30, "<f4").tobytes()
    return {
        "kept": pb.Knowledge(id_gaps=[1], width=2**26 - 1, codec=uint8, values=b"00", kept=1, classes=bytes(4)),
        "labels": pb.Knowledge(id_gaps=[1], width=2**26 - 1, codec=label, values=bytes(4)),
        "labels without bytes": pb.Knowledge(id_gaps=many, width=1, codec=label),
        "full rows": pb.Knowledge(id_gaps=[1], width=2**32 - 1, codec=uint8, values=b"00"),
        "rows without values": pb.Knowledge(id_gaps=many, width=CLASSES, codec=uint8),
        "rows of width 0": pb.Knowledge(id_gaps=many, width=0, codec=uint8),
        "most values kept": pb.Knowledge(id_gaps=[1], width=CLASSES, codec=uint8, kept=2**32 - 1),
        "another codec": pb.Knowledge(id_gaps=[1], width=CLASSES, codec=pb.CODEC_FLOAT32, values=scaled),
        "a row of zeros": pb.Knowledge(id_gaps=[1], width=CLASSES, codec=uint8, values=bytes(CLASSES)),
        "rows that do not exist": pb.Knowledge(id_gaps=[2**32 - 1] * 9, width=CLASSES, codec=uint8, values=bytes(90)),
        "too many bytes": pb.Knowledge(id_gaps=[1], width=CLASSES, codec=uint8, values=bytes(2 * room)),
    }


def report_bombs(room: int) -> dict[str, bytes]:
    """Return serialised reports that must be refused, by form."""
    honest = pb.Knowledge(width=CLASSES, codec=pb.CODEC_UINT8)
    out = {form: pb.Report(knowledge=bomb).SerializeToString() for form, bomb in knowledge_bombs(room).items()}
    numbered = pb.Report(knowledge=honest, metrics={f"{i:x}": 1.0 for i in range(room // 18)})
    out["many metrics"] = numbered.SerializeToString()[:room]
    out["an unknown metric"] = pb.Report(knowledge=honest, metrics={"accuracy": 1.0}).SerializeToString()
    out["a huge loss"] = pb.Report(knowledge=honest, metrics={"train_loss": 1.7e308}).SerializeToString()
    out["no knowledge"] = b""
    return out


def memory(field: str) -> int:
    """Return the resident memory of this process (VmRSS), or the largest one so far (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(count: int) -> None:
    """Refuse `count` messages of every form, at a coordinator and at a device, and print the growth of the memory."""
    coordinator = RoundCoordinator(FederationInfo("run", 2, TERMS), 60.0, ignore_event)
    coordinator.open(PLAN, range(2), None)
    reports = report_bombs(coordinator.expected(PLAN).largest)
    task = ExpectedTask(ROWS, expected_teacher(get_method("fedmd"), TERMS, ROWS, 2))
    teachers = {form: bomb.SerializeToString() for form, bomb in knowledge_bombs(task.teacher.largest).items()}
    plan = wire.encode_plan(RoundPlan(1, np.arange(ROWS)))

    def refuse(n: int) -> int:
        refused = 0
        for _ in range(n):
            for report in reports.values():
                try:
                    coordinator.submit(0, 0, report)
                except Refused:
                    refused += 1
            for teacher in teachers.values():
                try:
                    read_task(plan, teacher, task)
                except RunError:
                    refused += 1
        return refused

    refuse(3)  # the first calls load code and fill caches
    before, largest = memory("VmRSS"), memory("VmHWM")
    refused = refuse(count)
    print(refused, len(reports) + len(teachers), memory("VmRSS") - before, memory("VmHWM") - largest)


if __name__ == "__main__":
    main(int(sys.argv[1]))
