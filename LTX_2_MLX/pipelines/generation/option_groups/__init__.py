"""Declarations of the options of ``generate``, a module for each group."""
