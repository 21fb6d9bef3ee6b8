"""Fetch published weights into the Hugging Face cache, with links from weights/."""

from LTX_2_MLX.cli.download_weights import main

if __name__ == "__main__":
    main()
