"""The function that runs the golden cases of each component.

It returns the outputs by name. It may leave out ``trace.*`` and ``stage.*`` (values inside the run); every other
output of the case must be there.
"""

from collections.abc import Callable

from LTX_2_MLX.verify import (
    esrgan,
    flashvsr,
    flashvsr_pipeline,
    ltx_conditioning,
    ltx_dfr_layout,
    ltx_diffusion_decoder,
    ltx_duration,
    ltx_pipeline,
    ltx_positions,
    ltx_sampling,
    ltx_text,
    ltx_tiling,
    ltx_transformer,
    ltx_vae,
    ltx_vae_files,
    rife,
)
from LTX_2_MLX.verify.case import Case, Outputs

COMPONENTS: dict[str, Callable[[Case], Outputs]] = {
    "esrgan/animevideov3_real": esrgan.animevideov3_real,
    "esrgan/checkpoint_files": esrgan.checkpoint_files,
    "esrgan/denoise_strength": esrgan.denoise_strength,
    "esrgan/procedure": esrgan.procedure,
    "esrgan/procedure_author": esrgan.procedure_author,
    "esrgan/rrdbnet": esrgan.network,
    "esrgan/srvgg": esrgan.network,
    "flashvsr/color_fix": flashvsr.color_fix,
    "flashvsr/dit": flashvsr.dit,
    "flashvsr/lq_proj": flashvsr.lq_projection,
    "flashvsr/pipeline": flashvsr_pipeline.pipeline,
    "flashvsr/preprocess": flashvsr.preprocess,
    "flashvsr/taehv": flashvsr.taehv,
    "flashvsr/tcdecoder": flashvsr.tcdecoder,
    "flashvsr/tiled_dit": flashvsr_pipeline.tiled_dit,
    "flashvsr/tiled_vae": flashvsr.tiled_vae,
    "flashvsr/wan_vae": flashvsr.wan_vae,
    "ltx2/conditioning": ltx_conditioning.conditioning,
    "ltx2/gemma_tiny": ltx_text.gemma,
    "ltx2/latent_upscaler": ltx_vae.latent_upscaler,
    "ltx2/patchify_positions": ltx_positions.patchify_positions,
    "ltx2/pipeline": ltx_pipeline.pipeline,
    "ltx2/schedules": ltx_sampling.schedules,
    "ltx2/temporal_second_pass": ltx_vae.temporal_second_pass,
    "ltx2/text_connector": ltx_transformer.text_connector,
    "ltx2/transformer": ltx_transformer.transformer,
    "ltx2/video_vae": ltx_vae.video_vae,
    "ltx2/video_vae_tiled": ltx_tiling.video_vae_tiled,
    "ltx25/dfr_layout": ltx_dfr_layout.dfr_layout,
    "ltx25/dfr_new_layout": ltx_dfr_layout.dfr_new_layout,
    "ltx25/diffusion_decoder": ltx_diffusion_decoder.diffusion_decoder,
    "ltx25/diffusion_decoder_plan": ltx_diffusion_decoder.diffusion_decoder_plan,
    "ltx25/duration_head": ltx_duration.duration_head,
    "ltx25/gemma4_tiny": ltx_text.gemma4,
    "ltx25/transformer": ltx_transformer.transformer,
    "ltx25/video_vae_conv_file": ltx_vae_files.convolutional_file,
    "ltx25/video_vae_file": ltx_vae_files.diffusion_file,
    "rife/ifnet": rife.ifnet,
    "rife/procedure": rife.procedure,
    "rife/procedure_scene": rife.procedure_scene,
}
