"""From projections to fields: scalar, magnetisation vector, orientation tensor and axis."""
