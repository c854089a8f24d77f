"""From complex transmission to phase on one pixel size, air at zero."""
