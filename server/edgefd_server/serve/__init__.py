"""Serve a whole run to devices, over gRPC or through a folder."""
