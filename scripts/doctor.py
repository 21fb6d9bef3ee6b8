"""Examine this machine: system, memory, MLX, weights on disk, and the kernels that the networks use."""

from LTX_2_MLX.cli.doctor import main

if __name__ == "__main__":
    main()
