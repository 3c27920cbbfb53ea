"""Defences: changes to the soft labels or the training of a client, so that they disclose less private data."""
