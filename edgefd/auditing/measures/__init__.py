"""Scores of membership attacks, image similarity, and the statistics of an audit."""
