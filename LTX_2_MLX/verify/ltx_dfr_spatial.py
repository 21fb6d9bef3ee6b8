"""The spatial stage of detail-fidelity rendering, and the keyframes that it takes over."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.diffusion.dfr_layout import SPATIAL_OVERLAP
from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.diffusion.state import State, patchify_audio
from LTX_2_MLX.media.frames import signed_to_levels
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.pipelines.dfr import LatentStages
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.keyframes import enlarge, enlarged_keyframe
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.pipelines.generation.rendering_stages import SpatialStage
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, readable
from LTX_2_MLX.verify.ltx_dfr import Files
from LTX_2_MLX.verify.ltx_positions import compression_of


def dfr_spatial_stage(case: Case, parallel: ParallelMode = "auto") -> Outputs:
    """Every run of the case; ``parallel`` shares it among the processes of a run."""
    outputs: Outputs = {}
    for name in case.parameter("runs"):
        outputs |= _Run(case, name, parallel).outputs()
    return outputs


class _Run:
    """One run of the spatial stage, on the keyframes that are given at its size."""

    def __init__(self, case: Case, name: str, parallel: ParallelMode):
        self.case = case
        self.name = name
        self.files = Files(case, parallel)
        self.parameters = case.parameter("runs")[name]

    def latent(self, name: str) -> mx.array:
        return channels_last(self.case.inputs()[f"{self.name}.{name}"])

    def outputs(self) -> Outputs:
        """The stage after its upscaler, and the tokens of its tiles."""
        _, upscale, stage = LatentStages(self.models(), self.rendering(), spatial_doubling=True).spatial()
        assert isinstance(stage, SpatialStage)
        stage = self.prepared(stage)
        runner = StageRunner()
        upscaled = upscale.run(runner, self.start())
        outputs: Outputs = {f"trace.{self.name}.upscaled.video": channels_first(upscaled.latents["video"])}

        def on_step(step: int, state: State) -> None:
            outputs[f"trace.{self.name}.step{step}.video"] = state["video"].latent

        result = replace(stage, on_step=on_step).run(runner, upscaled)
        outputs[f"{self.name}.video"] = channels_first(result.latents["video"])
        return outputs | self.tiles(stage, upscaled)

    def tiles(self, stage: SpatialStage, state: GenerationState) -> Outputs:
        tiles = stage.rendering.spatial_tiles(stage.overlap)
        spans = [[end for span in (t.time, t.height, t.width) for end in (span.start, span.stop)] for t in tiles]
        outputs: Outputs = {f"{self.name}.tiles": np.array(spans)}
        video = stage.tokens(state).state()
        for number, part in enumerate(stage.token_tiles(video)):
            outputs |= {
                f"{self.name}.tile{number}.tokens": part.indices,
                f"{self.name}.tile{number}.weights": part.weights,
                f"trace.{self.name}.tile{number}.coords": part.state(video).positions[0],
            }
        return outputs

    def models(self) -> Models:
        lora = self.case.parameter("detailing_lora") or {}
        distilled = self.case.parameter("distilled_lora") or {}
        return self.files.models(
            distilled.get("strength", 0.0),
            lora.get("strength", 0.0),
            downscale=lora.get("reference_downscale_factor", 2),
        )

    def rendering(self) -> Rendering:
        """The rendering that the run ends."""
        p = self.parameters
        compression = compression_of(self.case)
        rendering = Rendering(
            num_frames=(p["frames"] - 1) // 2 ** p["rounds"] + 1,
            frame_rate=p["playback_fps"] / 2 ** p["rounds"],
            height=p["height"] // 2 // compression.height,
            width=p["width"] // 2 // compression.width,
            compression=compression,
            rounds=p["rounds"],
        )
        assert rendering.keyframes(p["rounds"]) == p["keyframe_positions"]
        assert rendering.seams(p["rounds"]) == p["last_round_seams"]
        return rendering

    def prepared(self, stage: SpatialStage) -> SpatialStage:
        """The stage with the case's noise, schedule and images, which lie at frames of its own grid."""
        p = self.parameters
        noise = mx.array(self.case.inputs()[f"{self.name}.noise.0"]).astype(mx.float32)
        return replace(
            stage,
            sigmas=[*p["sigmas"], 0.0],
            images=tuple(ImagePlace(Path("image"), image["frame"], image["strength"]) for image in p["images"]),
            overlap=self.case.parameters.get("spatial_overlap", SPATIAL_OVERLAP),
            noise=lambda purpose, shape: noise.reshape(shape),
        )

    def start(self) -> GenerationState:
        """Contexts, encoded images and the last round's latents."""
        p = self.parameters
        images = {}
        for number in range(len(p["images"])):
            images[f"spatial.{number}"] = self.latent(f"image{number}.{p['height']}x{p['width']}")
        latents = {
            "video": self.latent("video"),
            "keyframes": self.latent("keyframes"),
            "audio": patchify_audio(self.latent("audio")),
        }
        return GenerationState(contexts=self.files.contexts(), images=images, latents=latents)


def dfr_keyframe_pixels(case: Case) -> Outputs:
    """Keyframes to pixels, enlarged, and back to latents; and the enlargement of images alone."""
    io = case.inputs()
    scale = case.parameter("scale")
    checkpoint = case.checkpoint()
    decoder = load(VideoDecoder, checkpoint, dtype=case.dtype)
    encoder = load(VideoEncoder, checkpoint, dtype=case.dtype)
    statistics = load(LatentStatistics, checkpoint, dtype=mx.float32)
    keyframes = channels_last(io["keyframes"])
    planes = [keyframes[:, number : number + 1] for number in range(keyframes.shape[1])]
    decoded = [decoder.decode(plane)[0, 0] for plane in planes]
    levels = [signed_to_levels(frame) for frame in decoded]
    latents = mx.concatenate([enlarged_keyframe(plane, decoder, encoder, scale) for plane in planes], axis=1)
    outputs: Outputs = {
        "decoded": np.stack([np.moveaxis(readable(frame), -1, 0) for frame in decoded]),
        "rgb": np.stack(levels),
        "stretched": np.stack([enlarge(frame, scale) for frame in levels]),
        "latents": channels_first(latents),
        "trace.latents_raw": channels_first(statistics.denormalise(latents)),
    }
    for name, image in io.items():
        if name.startswith("image."):
            outputs[name] = enlarge(image, scale)
    return outputs
