"""Arrays, knowledge, seeding, errors, files, host and processes: used by every other package."""
