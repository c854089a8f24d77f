"""From volumes to materials science: density, grains, resolution, uncertainty, scores."""
