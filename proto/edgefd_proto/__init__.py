"""The protobuf messages of package edgefd.v1. `make proto` generates `edgefd_pb2` from `edgefd.proto`."""
