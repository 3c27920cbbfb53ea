"""gRPC front end for devices."""

import os

# Without it, gRPC itself writes a line for every handshake that fails, and anybody who reaches the port can cause them.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
