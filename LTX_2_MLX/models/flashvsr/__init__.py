"""FlashVSR: one-step streaming super-resolution."""
