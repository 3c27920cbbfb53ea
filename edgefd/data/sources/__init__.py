"""Sources of data: each file reads one kind of source, and returns `Samples`; `edgefd.data.datasets` chooses one."""
