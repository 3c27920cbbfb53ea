"""The coordinator's state machine, checkpoints and resumption."""
