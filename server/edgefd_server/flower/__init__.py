"""Flower as a front end of the coordinator: the ServerApp, the SuperLink, the driver of the Grid, and Ray."""
