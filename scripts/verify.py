"""Run golden cases through the real loaders and networks on this machine."""

from LTX_2_MLX.cli.verify import main

if __name__ == "__main__":
    main()
