"""Golden cases of conditioning: what is fixed in a stream's state before it is denoised."""

from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.conditioning import (
    append_keyframe,
    append_reference,
    fix_latent_frames,
    regenerate_region,
    weigh_attention,
)
from LTX_2_MLX.diffusion.state import (
    AudioClock,
    LatentState,
    VideoGrid,
    add_noise,
    patchify_audio,
    patchify_video,
    start_state,
)
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_last
from LTX_2_MLX.verify.ltx_formulas import fix_masked, token_weights
from LTX_2_MLX.verify.ltx_positions import compression_of

# Arguments of the published case, for cases that give none of their own.
DEFAULTS: dict[str, Any] = {
    # Conditioning strength of each item, in the order in which the run applies them.
    "strengths": {
        "first_frame": [1.0],
        "latent_index": [0.7],
        "keyframes": [0.9, 0.8, 1.0],
        "keyframe_zero": [1.0, 0.5],
        "reference": [1.0],
        "reference_slow": [0.6],
        "mask": [0.75],
    },
    "latent_index": 1,
    "reference_downscale": 2,
    "reference_slower": 4,
    "reference_attention_strength": 0.4,
    "noise_scales": {"noised1": 1.0, "noised09": 0.909375},
}


def conditioning(case: Case) -> Outputs:
    """Every kind of conditioning, applied to a fresh state, with noise after it."""
    outputs: Outputs = {"downsampled_mask": _downsampled_mask(case)}
    for name, state in _VideoRuns(case).states().items():
        outputs |= _state_outputs(case, f"video.{name}", state)
    audio = regenerate_region(_audio_state(case), *case.parameter("region"))
    return outputs | _state_outputs(case, "audio.region", audio)


class _VideoRuns:
    """The runs on the video stream."""

    def __init__(self, case: Case):
        self.io = case.inputs()
        self.parameters = DEFAULTS | case.parameters
        self.strengths = DEFAULTS["strengths"] | case.parameters.get("strengths", {})
        channels, *latent_size = self.parameters["v"]
        self.compression = compression_of(case)
        self.grid = VideoGrid(LatentShape(*latent_size), self.compression, self.parameters["fps"])
        positions = self.grid.positions()
        self.fresh = start_state(mx.zeros((1, self.grid.shape.num_tokens, channels)), positions)
        self.initial = start_state(patchify_video(self.latent("initial")), positions)

    def latent(self, name: str) -> mx.array:
        return channels_last(self.io[name])

    def states(self) -> dict[str, LatentState]:
        image = self.latent("image")
        masked = self.latent("masked_latent")
        [first_frame_strength] = self.strengths["first_frame"]
        [mask_strength] = self.strengths["mask"]
        return {
            "first_frame": fix_latent_frames(self.fresh, image, self.grid, strength=first_frame_strength),
            "latent_index": self.latent_index(),
            "keyframes": self.keyframes(),
            "keyframe_zero": self.keyframe_zero(),
            "reference": self.reference(),
            "reference_slow": self.reference_slow(),
            "reference_attention": self.reference_attention(),
            "region": regenerate_region(self.initial, *self.parameters["region"]),
            "mask": fix_masked(self.initial, masked, mx.array(self.io["mask"]), strength=mask_strength),
        }

    def latent_index(self) -> LatentState:
        """A clip in place of latent frames of an earlier latent."""
        [strength] = self.strengths["latent_index"]
        index = self.parameters["latent_index"]
        return fix_latent_frames(self.initial, self.latent("clip"), self.grid, latent_frame=index, strength=strength)

    def keyframes(self) -> LatentState:
        """The first frame fixed, and two keyframes appended."""
        image = self.latent("image")
        first_frame, second_frame = self.parameters["kf"]
        strengths = self.strengths["keyframes"]
        state = fix_latent_frames(self.fresh, image, self.grid, strength=strengths[0])
        state = append_keyframe(state, self.latent("image2"), self.grid, frame=first_frame, strength=strengths[1])
        return append_keyframe(state, image, self.grid, frame=second_frame, strength=strengths[2])

    def keyframe_zero(self) -> LatentState:
        """A keyframe at frame 0 and a clip after it, both appended."""
        clip = self.latent("clip")
        first_strength, clip_strength = self.strengths["keyframe_zero"]
        state = append_keyframe(self.fresh, self.latent("image2"), self.grid, frame=0, strength=first_strength)
        return append_keyframe(
            state,
            clip,
            self.grid,
            frame=self.parameters["kf"][0],
            strength=clip_strength,
            num_pixel_frames=1 + self.compression.time * (clip.shape[1] - 1),
        )

    def reference(self) -> LatentState:
        """A reference video at a lower resolution."""
        [strength] = self.strengths["reference"]
        downscale = self.parameters["reference_downscale"]
        return append_reference(self.fresh, self.latent("reference"), self.grid, downscale=downscale, strength=strength)

    def reference_slow(self) -> LatentState:
        """A reference video at a lower frame rate."""
        [strength] = self.strengths["reference_slow"]
        slower = self.parameters["reference_slower"]
        return append_reference(self.fresh, self.latent("refslow"), self.grid, slower=slower, strength=strength)

    def reference_attention(self) -> LatentState:
        """A reference and keyframes that the other tokens attend to with weights."""
        image = self.latent("image")
        first_frame, second_frame = self.parameters["kf"]
        weight = self.parameters["reference_attention_strength"]
        weights = mx.array(self.io["keyframe_weights"])
        reference = weigh_attention(self.fresh, self.reference(), self.grid, weight)
        keyframe = append_keyframe(reference, image, self.grid, frame=first_frame)
        keyframe = weigh_attention(reference, keyframe, self.grid, weights)
        return append_keyframe(keyframe, self.latent("image2"), self.grid, frame=second_frame)


def _audio_state(case: Case) -> LatentState:
    tokens = patchify_audio(channels_last(case.inputs()["audio_initial"]))
    return start_state(tokens, AudioClock().positions(tokens.shape[1]))


def _downsampled_mask(case: Case) -> np.ndarray:
    pixel_mask = case.inputs()["pixel_mask"][:, 0]
    return token_weights(pixel_mask, LatentShape(*case.parameter("dm")))


def _state_outputs(case: Case, prefix: str, state: LatentState) -> Outputs:
    stream = prefix.partition(".")[0]
    noise = mx.array(case.inputs()[f"{stream}_noise"])[:, : state.num_tokens]
    values = {
        "latent": state.latent,
        "clean_latent": state.clean_latent,
        "denoise_mask": state.denoise_mask,
        "positions": state.positions,
    }
    if state.attention_mask is not None:
        values["attention_mask"] = state.attention_mask
    for name, scale in (DEFAULTS | case.parameters)["noise_scales"].items():
        values[name] = add_noise(state, noise, scale).latent
    return {f"{prefix}.{name}": value for name, value in values.items()}
