"""Generate a video that begins with an image: python examples/image_to_video.py first.png "A ball rolls left"."""

import sys

import LTX_2_MLX

image, prompt = sys.argv[1:]
video = LTX_2_MLX.generate(prompt, image=image, image_strength=0.9, seed=1)
video.save("video.mp4")
