"""How fast networks run on this machine, and how fast its own matmul, attention and convolution would let them."""
