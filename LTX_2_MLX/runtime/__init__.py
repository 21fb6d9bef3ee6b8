"""Runs stages: BLAS, memory, progress, saved results."""
