"""How the model in the box is made: its world, its losses, its training. Nothing else in the package imports it."""
