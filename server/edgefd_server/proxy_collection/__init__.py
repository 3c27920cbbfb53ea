"""Collection of raw proxy samples that devices contribute."""
