"""A link that gives a device a fixed list of tasks."""

from dataclasses import dataclass, field

from edgefd_client.link import Membership, Task, read_task

from edgefd.rounds.validation import ExpectedTask
from edgefd.wire import messages as wire


@dataclass
class ScriptedLink:
    """A link that gives the device a fixed list of tasks and collects its reports."""

    tasks: list[Task]
    membership: Membership
    submitted: list[tuple[int, bytes]] = field(default_factory=list)
    interrupt: bool = False
    """interrupt the device when it submits a report"""

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        task = next((t for t in self.tasks if t.plan.round > after), None)
        if task is None:
            return None
        codec = self.membership.terms.codec
        teacher = None if task.teacher is None else wire.encode(task.teacher, codec)
        return read_task(wire.encode_plan(task.plan), teacher, expected)

    def submit(self, report: bytes, round: int) -> None:
        if self.interrupt:
            raise KeyboardInterrupt
        self.submitted.append((round, report))
