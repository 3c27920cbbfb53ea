"""Trackers of runs, by the name of their file: each file whose name does not begin with `_` defines one `Tracker`.

A tracker is a `Callback`. Its constructor checks that its package is installed.
"""
