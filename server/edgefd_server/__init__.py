"""Server side of edgefd: the Flower ServerApp and its transport."""
