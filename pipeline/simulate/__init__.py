"""Synthetic beamtimes from known truth, made by other code than the reconstruction's."""
