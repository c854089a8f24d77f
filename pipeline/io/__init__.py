"""Files: one reader a format behind one protocol, stack files, and the result."""
