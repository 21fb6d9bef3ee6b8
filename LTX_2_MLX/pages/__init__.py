"""Pages to look at results: one HTML file each, with everything in it, that a browser opens from the disk."""
