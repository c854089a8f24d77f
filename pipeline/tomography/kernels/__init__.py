"""Compiled inner loops of the projectors.

Every kernel comes with its exact adjoint, and every output element is written by one thread in
a fixed order: results do not depend on the number of threads.
"""

import os

from pipeline.compiled import guard_kernels

# Threads that wait for the next kernel sleep instead of spinning: workers that share a machine
# would otherwise take the cores from each other. Read by OpenMP when the first kernel runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

guard_kernels()
