"""Show the contents of a checkpoint: networks, variant, precision, bytes, config."""

from LTX_2_MLX.cli.inspect_checkpoint import main

if __name__ == "__main__":
    main()
