"""The `edgefd` command line: one file for each group of commands, registered in `main`."""
