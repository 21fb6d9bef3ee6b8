"""The CPU backend's own forms of operations. They take float32; nothing outside ``ops`` imports them."""
