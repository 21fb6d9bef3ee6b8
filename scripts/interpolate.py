"""Interpolate the frames of a video with RIFE."""

from LTX_2_MLX.cli.interpolate import main

if __name__ == "__main__":
    main()
