"""Training of the demo model: its drawn world, its losses, its runs. Nothing else in the package imports it."""
