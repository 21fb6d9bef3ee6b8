"""Speed and memory of the networks on this machine, beside its own rates."""
