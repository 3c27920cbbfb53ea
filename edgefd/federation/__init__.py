"""The nouns of a federation: clients, proxy set, plans, reports, terms, `Method`."""
