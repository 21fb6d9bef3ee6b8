"""Enlarge and restore a video with FlashVSR."""

from LTX_2_MLX.cli.super_resolve import main

if __name__ == "__main__":
    main()
