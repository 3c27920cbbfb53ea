"""The memory of a process that refuses many messages, which claim far more than they hold."""

import subprocess
import sys

from tests.support.fork_server import environment

MEGABYTE = 2**20


def test_a_thousand_refused_messages_of_every_form_leave_no_memory_behind() -> None:
    command = [sys.executable, "-m", "tests.support.bombs", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(".", "proto", "server", "client"))
    assert done.returncode == 0, done.stderr
    refused, forms, growth, peak = (int(number) for number in done.stdout.split())
    assert refused == 1000 * forms
    assert growth < 20 * MEGABYTE
    assert peak < 20 * MEGABYTE
