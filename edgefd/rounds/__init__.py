"""The one round: client part, server part, loop, participation, validation."""
