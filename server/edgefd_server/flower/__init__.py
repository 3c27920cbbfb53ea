"""Flower front end: ServerApp, SuperLink, Grid driver, Ray."""
