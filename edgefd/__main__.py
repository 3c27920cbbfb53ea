"""Start the `edgefd` command, also as `python -m edgefd`; name the extra to install if packages are missing."""

import sys

from edgefd.core.errors import UserError, require


def main() -> None:
    """Check the packages that all commands need, then run `edgefd.cli.main.main`. Each command checks its own."""
    try:
        require("sim", "pydantic", "typer", "rich")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from edgefd.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
