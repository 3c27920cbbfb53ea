"""The `edgefd` command: its list of subcommands and its entry point."""

from __future__ import annotations

import sys

from edgefd.cli.audit import audit, inspect
from edgefd.cli.certs import app as certs
from edgefd.cli.check import check, partition
from edgefd.cli.collect import collect
from edgefd.cli.common import CommandGroup, errors
from edgefd.cli.export import export
from edgefd.cli.methods_and_datasets import datasets, methods
from edgefd.cli.predict import predict
from edgefd.cli.report import compare, report
from edgefd.cli.serve import app as serve
from edgefd.cli.simulate import features, simulate, sweep
from edgefd.cli.tune import tune
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.log import configure_logging
from edgefd.core.terminal import escape_unknown_characters
from edgefd.core.text import escaped

COMMANDS = (
    *(simulate, sweep, tune, compare, report, predict),
    *(check, partition),
    *(collect, export),
    *(features, audit, inspect),
    *(methods, datasets),
)
"""all commands, in the order in which `edgefd --help` lists them; the groups `serve` and `certs` follow"""

app = CommandGroup(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated distillation for edge devices: simulate it, deploy it, audit what it leaks.",
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(serve, name="serve")
app.add_typer(certs, name="certs")


def main() -> None:
    """Run the command; report an error in one line on stderr.

    Exit codes: 2 for bad input, 1 for a run that cannot continue, 130 for Ctrl-C.
    """
    escape_unknown_characters()
    try:
        configure_logging()
        app()
    except (UserError, RunError, OSError) as error:  # the latter of a file system that is full or read-only
        errors.print(f"error: {escaped(str(error))}", style="red", markup=False, highlight=False)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except (Stopped, KeyboardInterrupt) as stop:
        errors.print(f"stopped; {escaped(str(stop))}" if str(stop) else "stopped", markup=False, highlight=False)
        sys.exit(130)
