"""Projection operators and the solvers that invert them, on plain arrays."""
