"""Memory plans of runs, made before any weights are loaded."""
