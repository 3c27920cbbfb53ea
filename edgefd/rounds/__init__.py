"""One round for every transport: its client part, server part, loop, participation rules and validation."""
