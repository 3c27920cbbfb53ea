"""The `edgefd` command, or `python -m edgefd`: where its packages are missing, it says which extra has them."""

import sys

from edgefd.core.errors import UserError, require


def main() -> None:
    """Entry point. See `edgefd.cli.main.main`."""
    try:
        require("sim", "torch", "scipy", "pydantic", "typer", "rich")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from edgefd.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
