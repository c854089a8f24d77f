"""Inner loops of the projectors."""
