"""Double the frame rate of a video in latent space, with LTX-2's autoencoder and temporal upscaler."""

from LTX_2_MLX.cli.upscale_temporal import main

if __name__ == "__main__":
    main()
