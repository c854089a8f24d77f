"""What an operator sees of a run: progress, quality, curves and slices, in terminal and UI."""
