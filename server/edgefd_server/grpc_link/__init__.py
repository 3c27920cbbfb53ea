"""gRPC front end for devices."""
