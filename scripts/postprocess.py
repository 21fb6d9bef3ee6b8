"""Interpolate and upscale a video in one run, with RIFE and Real-ESRGAN."""

from LTX_2_MLX.cli.postprocess import main

if __name__ == "__main__":
    main()
