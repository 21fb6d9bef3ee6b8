"""Functions of arrays: no weights, no state, no files."""
