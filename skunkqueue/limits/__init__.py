"""Limits: how many runs of a key go on at once or start in a time, and whose turn it is."""
