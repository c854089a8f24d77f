"""Synthetic beamtimes of known truth."""
