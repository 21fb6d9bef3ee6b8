"""Modules that more than one network uses."""
