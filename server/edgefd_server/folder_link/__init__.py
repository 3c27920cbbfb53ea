"""Rounds through an exchange folder that devices see."""
