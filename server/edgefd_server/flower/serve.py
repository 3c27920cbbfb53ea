"""`edgefd server --flower`: a whole run whose coordinator is a ServerApp on a SuperLink of our own.

This process starts the SuperLink, submits the run, prints what the ServerApp reports, and ends every process again. If
the SuperLink or the ServerApp dies, both are begun anew from the checkpoint, on the same database: SuperNodes come back
by themselves.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgefd.config.schema import Config
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.processes import alive, last_line, reported
from edgefd.runs.folder import write_config
from edgefd.runs.prepare import prepare, terms_of
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.checkpoint import exclusive_lock, load_checkpoint
from edgefd_server.coordinator.resume import check_deployable, create_checkpoint, load_for_resume
from edgefd_server.coordinator.round_coordinator import SHUTDOWN_GRACE
from edgefd_server.flower.job import Job, write_job
from edgefd_server.flower.superlink import SuperLink, SuperLinkAddress, checked, started
from edgefd_server.serve.bundles import check_bundles
from edgefd_server.serve.options import ServeOptions
from edgefd_server.serve.run_folder import new_folder

DEATHS = 3
"""so often SuperLink or ServerApp may die without a round between"""
START_SECONDS = 60.0
_LOOK = 1.0  # seconds between two looks at the allow-list


def serve_flower(
    config: Config, fleet: SuperLinkAddress, serving: ServeOptions, out: Path | None, resume: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Coordinate the config's clients, SuperNodes and, if `serving` listens, light devices: run folder and summary.

    With `resume`, go on where the checkpoint in the run folder `out` is; without a checkpoint, begin.

    Raises:
        UserError: if devices cannot run the config, or it cannot listen there.
        RunError: if a round does not get its reports in time, or Flower does not work. The devices are told.
        Stopped: on Ctrl-C. The devices are told.
    """
    check_deployable(config)
    if resume and out is None:
        raise UserError("--resume with --flower needs --out: the run folder to go on in")
    fleet = checked(fleet)
    allowed = None if fleet.certs is None else AllowList(fleet.certs)
    if allowed is not None:
        allowed.current()
    prepared = prepare(config, trains=False)
    if serving.listen is not None:
        check_bundles(config, serving.bundles, terms_of(config, prepared.federation))
    resuming = resume and out is not None and load_checkpoint(out) is not None
    folder = out if resuming and out is not None else new_folder(config, out, resume)
    with exclusive_lock(folder):
        if resuming:
            load_for_resume(config, folder)
        else:
            create_checkpoint(config, folder, folder)
        job = _job(config, fleet, serving, folder, resuming)
        try:
            return folder, _Command(fleet, allowed, job).run()
        except UserError:
            if not (resuming or (folder / "config.yaml").exists()):  # what is refused leaves nothing behind
                shutil.rmtree(folder)
            raise


def _job(config: Config, fleet: SuperLinkAddress, serving: ServeOptions, folder: Path, resuming: bool) -> Job:
    work = folder / "flower"
    work.mkdir(exist_ok=True)
    write_config(work, config)
    return Job(
        folder=str(folder.resolve()),
        work=str(work.resolve()),
        resuming=resuming,
        timeout=serving.timeout,
        certs=None if fleet.certs is None else str(fleet.certs.resolve()),
        listen=None if serving.listen is None else serving.listen.address,
        insecure=fleet.insecure,
        bundles=tuple(str(bundle.resolve()) for bundle in serving.bundles),
        metrics_port=serving.metrics_port,
        status=serving.status,
    )


@dataclass(eq=False)
class _Command:
    """The run as the command sees it: one SuperLink after another, if need be."""

    fleet: SuperLinkAddress
    allowed: AllowList | None
    job: Job
    seen: int = 0
    """lines that were read"""
    coordinator: int | None = None
    """process of the ServerApp, once it has said so"""
    family: set[int] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        """The summary, however often Flower dies, if a round is done now and then."""
        self.job.lines.unlink(missing_ok=True)
        if self.fleet.certs is None:
            print("warning: without --certs nothing is encrypted and nodes are who they say they are", file=sys.stderr)
        print(f"SuperNodes call at {self.fleet.address}", flush=True)
        deaths, rounds = 0, -1
        while True:
            write = write_job(self.job)
            with started(self.fleet, Path(self.job.work), self.family) as link:
                self._admit(link)
                link.submit({"job": str(write)})
                if (summary := self._follow(link)) is not None:
                    return summary
            saved = load_checkpoint(Path(self.job.folder))
            reached = 0 if saved is None else saved.next_round
            deaths, rounds = (deaths + 1 if reached == rounds else 1), reached
            if deaths > DEATHS:
                line = last_line(link.log)
                raise RunError(
                    f"Flower died {deaths} times in round {reached}: {line} (see {link.log}; --resume goes on)"
                )
            print(f"Flower died in round {reached}: begun anew", flush=True)
            self.job = replace(self.job, resuming=True)

    def _admit(self, link: SuperLink) -> None:
        if self.allowed is not None:
            link.register(self.allowed.node_keys())

    def _follow(self, link: SuperLink) -> dict[str, Any] | None:
        """Print what the ServerApp reports: the summary; None if Flower died.

        Raises:
            UserError, RunError, Stopped: as the ServerApp reports it, or on Ctrl-C here.
        """
        self.coordinator = None
        keys = None if self.allowed is None else self.allowed.node_keys()
        looked = began = time.monotonic()
        try:
            for line in reported(link.process, self.job.lines, self.seen):
                if line is not None:
                    self.seen += 1
                    if (summary := self._read(line)) is not None:
                        return summary
                    continue
                if self.coordinator is None and time.monotonic() - began > START_SECONDS:
                    raise RunError(f"the ServerApp did not start: {last_line(link.log)} (see {link.log})")
                if time.monotonic() - looked < _LOOK:
                    continue
                looked = time.monotonic()
                if self.coordinator is not None and not alive(self.coordinator):
                    return None
                if self.allowed is not None and (now := self.allowed.node_keys()) != keys:
                    self._admit(link)
                    keys = now
        except KeyboardInterrupt:
            raise Stopped(self._stop(link)) from None
        finally:
            self._leave()
        return None

    def _read(self, line: dict[str, Any]) -> dict[str, Any] | None:
        match line:
            case {"process": int(process), "parent": int(parent)}:
                self.coordinator = process
                self.family |= {process, parent}
            case {"say": str(said)}:
                print(said, flush=True)
            case {"refused": str(why)}:
                raise UserError(why)
            case {"failed": str(why)}:
                raise RunError(why)
            case {"stopped": str(why)}:
                raise Stopped(why)
            case {"done": dict(summary)}:
                return summary
        return None

    def _stop(self, link: SuperLink) -> str:
        """Have the ServerApp tell the clients, and say what is kept."""
        if self.coordinator is None or not alive(self.coordinator):
            return "not one round was done"
        os.kill(self.coordinator, signal.SIGTERM)
        deadline = time.monotonic() + SHUTDOWN_GRACE + 10
        for line in reported(link.process, self.job.lines, self.seen):
            if line is not None and "stopped" in line:
                return str(line["stopped"])
            if time.monotonic() > deadline:
                break
        return f"the rounds done so far are in {self.job.folder}"

    def _leave(self) -> None:
        """Give the ServerApp time to end by itself, after its last line."""
        deadline = time.monotonic() + 5
        while self.coordinator is not None and alive(self.coordinator) and time.monotonic() < deadline:
            time.sleep(0.05)
