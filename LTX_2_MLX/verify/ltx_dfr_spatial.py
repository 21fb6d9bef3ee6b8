"""The spatial stage of detail-fidelity rendering, and the keyframes that it takes over."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.diffusion.dfr import Keyframe, StageTokens, denoise_stage
from LTX_2_MLX.diffusion.dfr_layout import SPATIAL_OVERLAP, spatial_tiles
from LTX_2_MLX.diffusion.dfr_spatial import denoise_in_tiles, token_tiles
from LTX_2_MLX.diffusion.guidance import Denoise
from LTX_2_MLX.diffusion.patchify import AudioClock, VideoGrid, patchify_audio
from LTX_2_MLX.diffusion.state import State, start_state
from LTX_2_MLX.media.frames import signed_to_uint8
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoEncoder
from LTX_2_MLX.pipelines.generation.keyframes import enlarge, enlarged_keyframe
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last
from LTX_2_MLX.verify.ltx_dfr import Files
from LTX_2_MLX.verify.ltx_positions import compression_of


def dfr_spatial_stage(case: Case) -> Outputs:
    """Every run of the case."""
    files = Files(case)
    lora = case.parameter("detailing_lora") or {}
    distilled = case.parameter("distilled_lora") or {}
    denoise = files.denoiser(distilled.get("strength", 0.0), lora.get("strength", 0.0))
    outputs: Outputs = {}
    for name in case.parameter("runs"):
        outputs |= _Run(case, name, files, denoise).outputs()
    return outputs


class _Run:
    """One run of the spatial stage."""

    def __init__(self, case: Case, name: str, files: Files, denoise: Denoise):
        self.case = case
        self.name = name
        self.files = files
        self.denoise = denoise
        self.parameters = case.parameter("runs")[name]

    def latent(self, name: str) -> mx.array:
        return channels_last(self.case.inputs()[f"{self.name}.{name}"])

    def outputs(self) -> Outputs:
        p = self.parameters
        name = self.name
        tokens = self.tokens()
        video = tokens.state()
        shape = tokens.grid.shape
        seams = [frame // tokens.grid.compression.time for frame in p["last_round_seams"]]
        overlap = self.case.parameters.get("spatial_overlap", SPATIAL_OVERLAP)
        tiles = spatial_tiles(shape.num_frames, shape.height, shape.width, 2 ** p["rounds"], seams, overlap=overlap)
        parts = token_tiles(video, shape, tiles)
        audio = patchify_audio(self.latent("audio"))
        sound = start_state(audio, AudioClock().positions(audio.shape[1]), frozen=True)
        noise = mx.array(self.case.inputs()[f"{name}.noise.0"]).astype(mx.float32)
        outputs: Outputs = {f"trace.{name}.upscaled.video": channels_first(tokens.latent)}

        def on_step(step: int, state: State) -> None:
            outputs[f"trace.{name}.step{step}.video"] = state["video"].latent

        result = denoise_stage(
            "spatial",
            denoise_in_tiles(self.denoise, parts),
            {"video": video, "audio": sound},
            [*p["sigmas"], 0.0],
            lambda purpose, shape: noise.reshape(shape),
            on_step=on_step,
        )
        spans = [[end for span in (t.time, t.height, t.width) for end in (span.start, span.stop)] for t in tiles]
        outputs |= {
            f"{name}.tiles": np.array(spans),
            f"{name}.video": channels_first(tokens.video(result["video"].latent)),
        }
        for number, part in enumerate(parts):
            outputs |= {
                f"{name}.tile{number}.tokens": part.indices,
                f"{name}.tile{number}.weights": part.weights,
                f"trace.{name}.tile{number}.coords": part.state(video).positions[0],
            }
        return outputs

    def tokens(self) -> StageTokens:
        p = self.parameters
        small = self.latent("video")
        large = self.files.upscale("upscaler", small)
        grid = VideoGrid(LatentShape(*large.shape[1:4]), compression_of(self.case), p["conditioning_fps"])
        images = []
        for number, image in enumerate(p["images"]):
            latent = self.latent(f"image{number}.{p['height']}x{p['width']}")
            images.append(Keyframe(latent, image["frame"], image["strength"]))
        keyframes = self.latent("keyframes")
        carried = []
        for number, frame in enumerate(p["keyframe_positions"]):
            carried.append(Keyframe(keyframes[:, number : number + 1], frame, p["keyframe_strength"]))
        lora = self.case.parameter("detailing_lora") or {}
        return StageTokens(
            grid,
            large,
            images=images,
            keyframes=carried,
            reference=small,
            reference_downscale=lora.get("reference_downscale_factor", 2),
        )


def dfr_keyframe_pixels(case: Case) -> Outputs:
    """Keyframes to pixels, enlarged, and back to latents; and the enlargement of images alone."""
    io = case.inputs()
    scale = case.parameter("scale")
    checkpoint = case.checkpoint()
    decoder = load(VideoDecoder, checkpoint, dtype=mx.float32)
    encoder = load(VideoEncoder, checkpoint, dtype=mx.float32)
    statistics = load(LatentStatistics, checkpoint, dtype=mx.float32)
    keyframes = channels_last(io["keyframes"])
    planes = [keyframes[:, number : number + 1] for number in range(keyframes.shape[1])]
    decoded = [decoder.decode(plane)[0, 0] for plane in planes]
    levels = [signed_to_uint8(frame) for frame in decoded]
    latents = mx.concatenate([enlarged_keyframe(plane, decoder, encoder, scale) for plane in planes], axis=1)
    outputs: Outputs = {
        "decoded": np.stack([np.moveaxis(np.array(frame), -1, 0) for frame in decoded]),
        "rgb": np.stack(levels),
        "stretched": np.stack([enlarge(frame, scale) for frame in levels]),
        "latents": channels_first(latents),
        "trace.latents_raw": channels_first(statistics.denormalise(latents)),
    }
    for name, image in io.items():
        if name.startswith("image."):
            outputs[name] = enlarge(image, scale)
    return outputs
