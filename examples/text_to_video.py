"""Generate a video from a prompt: python examples/text_to_video.py "A blue ball bouncing on green grass"."""

import sys

import LTX_2_MLX

prompt = sys.argv[1]
video = LTX_2_MLX.generate(prompt, seed=1)
print(f"{video.num_frames} frames of {video.width}x{video.height} pixels, {float(video.frame_rate):g} per second")
video.save("video.mp4")
