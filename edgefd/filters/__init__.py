"""Filters: density estimators that decide which proxy rows a client answers for."""
