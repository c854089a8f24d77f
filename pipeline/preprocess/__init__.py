"""From complex projections to phase stacks: resampling, ramp removal, unwrapping."""
