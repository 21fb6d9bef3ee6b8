"""Cases of tokens, positions, schedules, guidance, samplers and conditioning."""

import itertools
from functools import partial

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion import conditioning, guidance, sampler, schedule
from LTX_2_MLX.diffusion.patchify import (
    AudioClock,
    VideoGrid,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
)
from LTX_2_MLX.diffusion.state import LatentState, Streams, add_noise, start_state, to_denoised, to_velocity
from LTX_2_MLX.layers.rope import RotaryTable, frequency_ladder, rotary_table, rotate
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case

COMPRESSION = Compression(8, 32, 32)


def channels_last(value: np.ndarray) -> mx.array:
    """A reference latent ``(B, C, ...)`` to ``(B, ..., C)``."""
    return mx.array(np.moveaxis(value, 1, -1))


def channels_first(value: mx.array) -> np.ndarray:
    """A latent ``(B, ..., C)`` to the reference's ``(B, C, ...)``."""
    return np.moveaxis(np.array(value), -1, 1)


@component("ltx2/patchify_positions")
def patchify_positions(case: Case) -> Outputs:
    """Tokens, positions, latent sizes, rotary tables and their use."""
    io, p = case.inputs(), case.parameters
    video = channels_last(io["video.latent"])
    out = {
        "video.tokens": patchify_video(video),
        "video.unpatchified": channels_first(
            unpatchify_video(mx.array(io["video.tokens_in"]), LatentShape(*video.shape[1:4]))
        ),
        "audio.tokens": patchify_audio(channels_last(io["audio.latent"])),
        "audio.unpatchified": channels_first(
            unpatchify_audio(mx.array(io["audio.tokens_in"]), io["audio.latent"].shape[1])
        ),
        "latent_sizes": np.array([_latent_size(*row) for row in p["pixel"]], dtype=np.int32),
    }
    for k, (*size, frame_rate) in enumerate(p["grids"]):
        out[f"video.positions.{k}"] = VideoGrid(LatentShape(*size), COMPRESSION, frame_rate).positions()
    for k, length in enumerate(p["audio_lengths"]):
        out[f"audio.positions.{k}"] = AudioClock().positions(length)
    for (width, axes), precision in itertools.product(p["ladders"], ("float32", "float64")):
        out[f"ladder.{precision}.{width}.{axes}"] = frequency_ladder(width, axes, precision=precision)
    return out | _rotary(case)


def _latent_size(num_frames: int, height: int, width: int, frame_rate: float) -> tuple[int, ...]:
    latent = VideoShape(num_frames, height, width).latent(COMPRESSION)
    return latent.num_frames, latent.height, latent.width, AudioClock().num_latents(num_frames, frame_rate)


def _rotary(case: Case) -> Outputs:
    io, out = case.inputs(), {}
    for name, width, heads, max_positions, stream, precision, pairing in case.parameters["tables"]:
        # The exchange between the streams turns by time alone.
        positions = io[f"positions.{stream}"][:, : len(max_positions)]
        table = rotary_table(
            positions, width=width, heads=heads, max_positions=max_positions, precision=precision, pairing=pairing
        )
        out |= {f"rope.{name}.cos": _published(table, "cos"), f"rope.{name}.sin": _published(table, "sin")}
        if name == f"small_{pairing}":
            x = mx.array(io["rotate"])[:, : table.cos.shape[1]]
            out[f"rotated.{pairing}"] = rotate(x.reshape(*x.shape[:2], heads, -1), table).reshape(x.shape)
    return out


def _published(table: RotaryTable, part: str) -> mx.array:
    """A table in the reference's layout: heads before tokens, or each value twice where pairs are interleaved."""
    values = getattr(table, part)
    if table.pairing == "split":
        return values.swapaxes(1, 2)
    return mx.repeat(values.flatten(2, 3), 2, axis=-1)


@component("ltx2/schedules")
def schedules(case: Case) -> Outputs:
    """Schedules, single steps, guidance and whole sampler loops around a stand-in denoiser."""
    io = {name: mx.array(value) for name, value in case.inputs().items()}
    out = _schedules(case.parameters) | _steps(case, io) | _guiders(case, io) | _loops(case, io)
    return out


def _schedules(parameters: dict) -> Outputs:
    out = {"sigmas.distilled": schedule.DISTILLED, "sigmas.stage2": schedule.REFINEMENT}
    out["sigmas.tdp"] = schedule.TILED_REFINEMENT
    for steps, shape in parameters["schedules"]:
        tokens = {} if shape is None else {"num_tokens": int(np.prod(shape))}
        label = "default" if shape is None else "x".join(map(str, shape))
        out[f"sigmas.ltx2.{steps}.{label}"] = schedule.ltx2_schedule(steps, **tokens)
    steps = parameters["schedules"][0][0]
    out["sigmas.ltx2.nostretch"] = schedule.ltx2_schedule(steps, terminal=None)
    out["sigmas.ltx2.terminal"] = schedule.ltx2_schedule(steps, terminal=0.25, max_shift=1.8, base_shift=0.7)
    for steps in parameters["linquad"]:
        out[f"sigmas.linear_quadratic.{steps}"] = schedule.linear_quadratic_schedule(steps)
    out["sigmas.beta"] = schedule.beta_schedule(parameters["beta"])
    return out


def _state(io: dict[str, mx.array], stream: str) -> LatentState:
    latent, clean, mask = (io[f"{stream}.{name}"] for name in ("latent", "clean", "denoise_mask"))
    return LatentState(latent, clean, mask, positions=mx.zeros((1, 1, latent.shape[1], 2)))


def _steps(case: Case, io: dict[str, mx.array]) -> Outputs:
    state, denoised, noise = _state(io, "video"), io["x0"], io["noise0"]
    latent, sigmas = state.latent, io["sig"]
    timesteps = state.denoise_mask * sigmas[:, None, None]
    out = {
        "timesteps": timesteps,
        "velocity": to_velocity(latent, denoised, sigmas[0].item()),
        "denoised": to_denoised(latent, denoised, state.timesteps(sigmas[0].item())),
        "postprocess": state.hold(denoised),
        "res2s_coefficients": np.array([sampler.res_2s_coefficients(h) for h in case.parameters["hs"]]),
        "loop.res2s.normalized_noise": sampler.normalised_noise(io["rawnoise"]),
    }
    for scale in case.parameters["noise_scales"]:
        out[f"noised.{scale}"] = add_noise(state, noise, scale).latent
    levels = io["steps_sigmas"].tolist()
    for k, pair in enumerate(itertools.pairwise(levels)):
        below = partial(sampler.ancestral_step, latent, denoised, *pair, noise)
        toward = partial(sampler.cfg_plus_plus_step, latent, denoised, io["unc"], *pair, noise)
        out[f"euler.{k}"] = sampler.euler_step(latent, denoised, *pair)
        out[f"ancestral1.{k}"] = below(eta=1.0)
        out[f"ancestral04.{k}"] = below(eta=0.4, noise_scale=0.9)
        out[f"cfgpp.{k}"] = toward(eta=0.6)
        out[f"cfgpp_det.{k}"] = toward(eta=0.0)
        out[f"res2s_step.{k}"] = sampler.sde_step(latent, denoised, *pair, noise, eta=0.5)
    return out


def _guiders(case: Case, io: dict[str, mx.array]) -> Outputs:
    cond, negative, scale = io["cond"], io["unc"], case.parameters["cfg"]
    one = (cond[:1], negative[:1])
    limit = case.parameters["thr"]
    momentum = guidance.MomentumGuidance(1.5, eta=0.7, norm_threshold=limit, momentum=-0.5)
    out = {
        "guider.cfg": cond + guidance.cfg_delta(cond, negative, scale),
        "guider.cfg_star": cond + guidance.cfg_star_delta(*one, scale),
        "guider.stg": guidance.guide(guidance.Guidance(stg_scale=0.8), cond, perturbed=io["ptb"]),
        "guider.apg": one[0] + guidance.apg_delta(*one, scale, eta=0.4, norm_threshold=limit),
        "guider.apg_plain": one[0] + guidance.apg_delta(*one, scale),
        "guider.apg_state.0": momentum(*one),
        "guider.apg_state.1": momentum(one[0], io["ptb"][:1]),
        "guider.skip": np.array(
            [[guidance.Guidance(skip_step=k).skips(step) for step in range(8)] for k in range(4)], dtype=np.int32
        ),
    }
    for k, values in enumerate(case.parameters["mm"]):
        out[f"guider.multimodal.{k}"] = guidance.guide(
            guidance_from(values), cond, negative=negative, perturbed=io["ptb"], isolated=io["mod"]
        )
    return out


def guidance_from(values: dict) -> guidance.Guidance:
    """Guidance from the reference's names."""
    return guidance.Guidance(
        guidance_scale=values.get("cfg_scale", 1.0),
        stg_scale=values.get("stg_scale", 0.0),
        stg_blocks=tuple(values.get("stg_blocks") or ()),
        modality_scale=values.get("modality_scale", 1.0),
        guidance_rescale=values.get("rescale_scale", 0.0),
        skip_step=values.get("skip_step", 0),
    )


def _loops(case: Case, io: dict[str, mx.array]) -> Outputs:
    start = Streams(_state(io, "video"), _state(io, "audio"))
    mix = Streams(io["video.mix"], io["audio.mix"])
    calls: list[float] = []

    def denoise(state, sigma, step):
        calls.append(sigma)
        return state.map(lambda s, m: mx.tanh(s.latent @ m) * (1 - sigma / 2) + 0.3 * s.clean_latent, mix)

    def noise(prefix: str, suffix: str = ""):
        return lambda step: Streams(*(io[f"{prefix}.{step}{suffix}.{name}"] for name in ("video", "audio")))

    half_steps = {"noise": noise("res2s", ".step"), "middle_noise": noise("res2s", ".sub")}
    loops = {
        "euler": sampler.euler,
        "gradient": sampler.gradient_estimation,
        "ancestral": partial(sampler.ancestral, noise=noise("loopnoise")),
        "res2s": partial(sampler.res_2s, eta=case.parameters["eta"], **half_steps),
        "res2s_nobong": partial(sampler.res_2s, eta=case.parameters["eta"], refine_anchor=False, **half_steps),
        "res2s_masked": partial(sampler.res_2s, eta=case.parameters["eta"], per_token=True, **half_steps),
    }
    out = {}
    for name, loop in loops.items():
        calls.clear()
        end = loop(denoise, start, io["res_sigmas" if name.startswith("res2s") else "loop_sigmas"].tolist())
        out |= {f"loop.{name}.{stream}": state.latent for stream, state in end._asdict().items()}
        if name.startswith("res2s"):
            out[f"loop.{name}.evaluations"] = np.array(calls)
    return out


@component("ltx2/conditioning")
def conditionings(case: Case) -> Outputs:
    """Every kind of conditioning, applied to a fresh state, with noise after it."""
    p = case.parameters
    io = case.inputs()
    grid = VideoGrid(LatentShape(*p["v"][1:]), COMPRESSION, p["fps"])
    fresh = start_state(mx.zeros((1, grid.shape.num_tokens, p["v"][0])), grid.positions())
    initial = start_state(patchify_video(channels_last(io["initial"])), grid.positions())
    image, image2, clip = (channels_last(io[name]) for name in ("image", "image2", "clip"))
    reference, slow = channels_last(io["reference"]), channels_last(io["refslow"])
    frames, keyframe = conditioning.fix_latent_frames, conditioning.append_keyframe
    first, second = p["kf"]

    held = frames(fresh, image, grid, strength=0.9)
    keyframes = keyframe(keyframe(held, image2, grid, frame=first, strength=0.8), image, grid, frame=second)
    zero = keyframe(fresh, image2, grid, frame=0)
    zero = keyframe(zero, clip, grid, frame=first, strength=0.5, num_pixel_frames=9)
    referred = conditioning.append_reference(fresh, reference, grid, downscale=2)
    weighed = conditioning.weigh_attention(fresh, referred, grid, 0.4)
    more = keyframe(weighed, image, grid, frame=first)
    more = conditioning.weigh_attention(weighed, more, grid, mx.array(io["keyframe_weights"]))
    video = {
        "first_frame": frames(fresh, image, grid),
        "latent_index": frames(initial, clip, grid, latent_frame=1, strength=0.7),
        "keyframes": keyframes,
        "keyframe_zero": zero,
        "reference": referred,
        "reference_slow": conditioning.append_reference(fresh, slow, grid, slower=4, strength=0.6),
        "reference_attention": keyframe(more, image2, grid, frame=second),
        "region": conditioning.regenerate_region(initial, *p["region"]),
        "mask": conditioning.fix_masked(
            initial, channels_last(io["masked_latent"]), mx.array(io["mask"]), strength=0.75
        ),
    }
    _, length, _ = p["a"]
    tokens = patchify_audio(channels_last(io["audio_initial"]))
    audio = start_state(tokens, AudioClock().positions(length))
    audio = {"region": conditioning.regenerate_region(audio, *p["region"])}
    weights = conditioning.token_weights(mx.array(io["pixel_mask"][:, 0]), LatentShape(*p["dm"]))
    out = {"downsampled_mask": weights}
    for stream, states in (("video", video), ("audio", audio)):
        noise = mx.array(io[f"{stream}_noise"])
        for name, state in states.items():
            out |= _state_outputs(f"{stream}.{name}", state, noise)
    return out


def _state_outputs(prefix: str, state: LatentState, noise: mx.array) -> Outputs:
    parts = {name: getattr(state, name) for name in ("latent", "clean_latent", "denoise_mask", "positions")}
    if state.attention_mask is not None:
        parts["attention_mask"] = state.attention_mask
    for name, scale in (("noised1", 1.0), ("noised09", 0.909375)):
        parts[name] = add_noise(state, noise[:, : state.num_tokens], scale).latent
    return {f"{prefix}.{name}": value for name, value in parts.items()}
