"""Running: BLAS, stages, memory, progress, jobs. Knows machines, not networks."""
