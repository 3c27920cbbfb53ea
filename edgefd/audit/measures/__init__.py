"""Statistics and scores of attacks."""
