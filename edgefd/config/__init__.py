"""Configuration of a run: schema, loading, overrides, consistency rules."""
