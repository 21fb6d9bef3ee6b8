"""Upscale an image, a folder of images or a video with Real-ESRGAN."""

from LTX_2_MLX.cli.upscale import main

if __name__ == "__main__":
    main()
