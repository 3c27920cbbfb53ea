"""Serve a whole run: gRPC or folder."""
