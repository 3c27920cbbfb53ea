"""A link that gives a device a fixed list of tasks."""

from dataclasses import dataclass, field

from edgefd_client.link import Membership, Task


@dataclass
class ScriptedLink:
    """A link that gives the device a fixed list of tasks and collects its reports."""

    tasks: list[Task]
    membership: Membership
    submitted: list[tuple[int, bytes]] = field(default_factory=list)
    interrupt: bool = False
    """interrupt the device when it submits a report"""

    def next_task(self, after: int) -> Task | None:
        return next((t for t in self.tasks if t.plan.round > after), None)

    def submit(self, report: bytes, round: int) -> None:
        if self.interrupt:
            raise KeyboardInterrupt
        self.submitted.append((round, report))
