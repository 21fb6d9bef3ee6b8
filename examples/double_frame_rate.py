"""Double a clip's frame rate in latent space, and look at its frames: python examples/double_frame_rate.py clip.mp4."""

import sys

import LTX_2_MLX

clip = sys.argv[1]
smooth = LTX_2_MLX.upscale_temporal(clip).save("smooth.mp4")
for frame in LTX_2_MLX.read_video(smooth).frames():
    print(frame.shape, frame.mean().round(1))
