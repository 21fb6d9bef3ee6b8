"""Generate a video from a prompt."""

from LTX_2_MLX.cli.generate import main

if __name__ == "__main__":
    main()
