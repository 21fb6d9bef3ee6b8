"""The version, alone, so that packaging reads it without importing MLX."""

__version__ = "0.2.0"
