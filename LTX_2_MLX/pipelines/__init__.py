"""The roads from request to frames."""
