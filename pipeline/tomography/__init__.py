"""The engine: geometry, contrast, projectors, solvers and priors."""
