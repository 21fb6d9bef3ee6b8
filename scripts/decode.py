"""Decode the latent that an earlier run of generate has saved."""

from LTX_2_MLX.cli.decode import main

if __name__ == "__main__":
    main()
