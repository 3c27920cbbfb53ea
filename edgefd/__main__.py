"""The `edgefd` command, also `python -m edgefd`. If its packages are missing, it names the extra to install."""

import sys

from edgefd.core.errors import UserError, require


def main() -> None:
    """Run the command line. See `edgefd.cli.main.main`."""
    try:
        require("sim", "torch", "scipy", "pydantic", "typer", "rich")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from edgefd.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
