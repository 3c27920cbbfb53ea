"""Arrays, knowledge, random generators, errors, files and processes, used by every other package."""
