"""Many beamtimes processed by one command."""
