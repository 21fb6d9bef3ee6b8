"""Networks of the Wan family: the video autoencoders and the transformer that FlashVSR was distilled from."""
