"""Data types of a federation: clients, proxy set, round plans, reports, terms and `Method`."""
