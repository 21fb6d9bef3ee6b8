"""The entry point as ``python -m LTX_2_MLX``."""

from LTX_2_MLX.cli.app import main

if __name__ == "__main__":
    main()
