"""Write a contact sheet of a video."""

from LTX_2_MLX.cli.sheet import main

if __name__ == "__main__":
    main()
