"""Compare two or three videos."""

from LTX_2_MLX.cli.compare import main

if __name__ == "__main__":
    main()
