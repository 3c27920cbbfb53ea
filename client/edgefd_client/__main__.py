"""Entry point of `python -m edgefd_client`, which is the command `edgefd-client`."""

from edgefd_client.cli import main

if __name__ == "__main__":
    main()
