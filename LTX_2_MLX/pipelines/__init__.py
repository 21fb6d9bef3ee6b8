"""Pipelines from a request to frames."""
