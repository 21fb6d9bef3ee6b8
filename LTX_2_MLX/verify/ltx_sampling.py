"""Golden cases of schedules, single steps, guidance and whole sampler loops."""

import itertools
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.sampler import DISTILLED, REFINEMENT, ltx2_schedule
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays, add_noise, to_denoised, to_velocity
from LTX_2_MLX.shapes import StreamName
from LTX_2_MLX.verify import ltx_formulas
from LTX_2_MLX.verify.case import Case, Outputs

_STREAMS: tuple[StreamName, ...] = ("video", "audio")
# Arguments of the published case, for cases that give none of their own.
DEFAULTS: dict[str, Any] = {
    "terminal": {"terminal": 0.25, "max_shift": 1.8, "base_shift": 0.7},
    "ancestral": {
        "ancestral1": {"eta": 1.0},
        "ancestral04": {"eta": 0.4, "noise_scale": 0.9},
    },
    "cfg_plus_plus": {"cfgpp": 0.6, "cfgpp_det": 0.0},
    "sde_step_eta": 0.5,
    "stg": 0.8,
    "apg": {"eta": 0.4},
    "apg_state": {"guidance_scale": 1.5, "eta": 0.7, "momentum": -0.5},
}


def schedules(case: Case) -> Outputs:
    """Schedules, single steps, guidance and whole sampler loops around a stand-in denoiser."""
    io = {name: mx.array(value) for name, value in case.inputs().items()}
    parameters = DEFAULTS | case.parameters
    return (
        _schedules(parameters)
        | _noise_levels(parameters, io)
        | _steps(parameters, io)
        | _guiders(case, parameters, io)
        | _multimodal(parameters, io)
        | _loops(parameters, io)
    )


def _schedules(parameters: dict[str, Any]) -> Outputs:
    outputs: Outputs = {
        "sigmas.distilled": DISTILLED,
        "sigmas.stage2": REFINEMENT,
        "sigmas.tdp": ltx_formulas.TILED_REFINEMENT,
    }
    for steps, shape in parameters["schedules"]:
        if shape is None:
            outputs[f"sigmas.ltx2.{steps}.default"] = ltx2_schedule(steps)
        else:
            label = "x".join(map(str, shape))
            num_tokens = int(np.prod(shape))
            outputs[f"sigmas.ltx2.{steps}.{label}"] = ltx2_schedule(steps, num_tokens=num_tokens)
    steps = parameters["schedules"][0][0]
    outputs["sigmas.ltx2.nostretch"] = ltx2_schedule(steps, terminal=None)
    outputs["sigmas.ltx2.terminal"] = ltx2_schedule(steps, **parameters["terminal"])
    for steps in parameters["linquad"]:
        outputs[f"sigmas.linear_quadratic.{steps}"] = ltx_formulas.linear_quadratic_schedule(steps)
    outputs["sigmas.beta"] = ltx_formulas.beta_schedule(parameters["beta"])
    return outputs


def _state(io: dict[str, mx.array], stream: str) -> LatentState:
    latent = io[f"{stream}.latent"]
    positions = mx.zeros((1, 1, latent.shape[1], 2))
    return LatentState(latent, io[f"{stream}.clean"], io[f"{stream}.denoise_mask"], positions=positions)


def _noise_levels(parameters: dict[str, Any], io: dict[str, mx.array]) -> Outputs:
    state = _state(io, "video")
    sigmas = io["sig"]
    sigma: Any = sigmas[0].item()
    denoised = io["x0"]
    outputs: Outputs = {
        "timesteps": state.denoise_mask * sigmas[:, None, None],
        "velocity": to_velocity(state.latent, denoised, sigma),
        "denoised": to_denoised(state.latent, denoised, state.denoise_mask * sigma),
        "postprocess": state.hold(denoised),
    }
    for scale in parameters["noise_scales"]:
        outputs[f"noised.{scale}"] = add_noise(state, io["noise0"], scale).latent
    return outputs


def _steps(parameters: dict[str, Any], io: dict[str, mx.array]) -> Outputs:
    latent = io["video.latent"]
    denoised = io["x0"]
    noise = io["noise0"]
    outputs: Outputs = {
        "res2s_coefficients": np.array([sampler.res_2s_coefficients(h) for h in parameters["hs"]]),
        "loop.res2s.normalized_noise": sampler.normalised_noise(io["rawnoise"]),
    }
    sigmas = np.array(io["steps_sigmas"]).tolist()
    state = LatentState(latent, latent, mx.ones((*latent.shape[:2], 1)), positions=mx.zeros((1, 1, latent.shape[1], 2)))
    for k, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas)):
        moved = sampler.euler(lambda *_: {"video": denoised}, {"video": state}, (sigma, next_sigma))
        outputs[f"euler.{k}"] = moved["video"].latent
        for name, arguments in parameters["ancestral"].items():
            step = sampler.ancestral_step(latent, denoised, sigma, next_sigma, noise, **arguments)
            outputs[f"{name}.{k}"] = step
        for name, eta in parameters["cfg_plus_plus"].items():
            step = ltx_formulas.cfg_plus_plus_step(latent, denoised, io["unc"], sigma, next_sigma, noise, eta=eta)
            outputs[f"{name}.{k}"] = step
        eta = parameters["sde_step_eta"]
        outputs[f"res2s_step.{k}"] = sampler.sde_step(latent, denoised, sigma, next_sigma, noise, eta=eta)
    return outputs


def _guiders(case: Case, parameters: dict[str, Any], io: dict[str, mx.array]) -> Outputs:
    cond = io["cond"]
    negative = io["unc"]
    perturbed = io["ptb"]
    scale = parameters["cfg"]
    plain = sampler.Guidance(guidance_scale=scale)
    spatio_temporal = sampler.Guidance(stg_scale=parameters["stg"])
    outputs: Outputs = {
        "guider.cfg": sampler.guide(plain, {"conditional": cond, "negative": negative}),
        "guider.cfg_star": cond + ltx_formulas.cfg_star_delta(cond[:1], negative[:1], scale),
        "guider.stg": sampler.guide(spatio_temporal, {"conditional": cond, "perturbed": perturbed}),
        "guider.skip": _skipped_steps(case),
    }
    # The reference's projections take one sample alone.
    return outputs | _projected(parameters, cond[:1], negative[:1], perturbed[:1])


def _projected(parameters: dict[str, Any], cond: mx.array, negative: mx.array, perturbed: mx.array) -> Outputs:
    """Adaptive projected guidance, and two steps of the variant with a running sum."""
    scale = parameters["cfg"]
    threshold = parameters["thr"]
    delta = partial(ltx_formulas.apg_delta, cond, negative, scale)
    momentum = dict(parameters["apg_state"])
    decay = momentum.pop("momentum")
    running = cond - negative
    later = decay * running + (cond - perturbed)
    running_delta = partial(ltx_formulas.momentum_delta, cond, norm_threshold=threshold, **momentum)
    return {
        "guider.apg": cond + delta(norm_threshold=threshold, **parameters["apg"]),
        "guider.apg_plain": cond + delta(),
        "guider.apg_state.0": running_delta(running=running),
        "guider.apg_state.1": running_delta(running=later),
    }


def _skipped_steps(case: Case) -> np.ndarray:
    """1 where a step is skipped: rows by ``skip_step``, columns by step."""
    rows, steps = case.outputs()["guider.skip"].shape
    skipped = [[sampler.Guidance(skip_step=row).skips(step) for step in range(steps)] for row in range(rows)]
    return np.array(skipped, dtype=np.int32)


def _multimodal(parameters: dict[str, Any], io: dict[str, mx.array]) -> Outputs:
    estimates: dict[sampler.Pass, mx.array] = {
        "conditional": io["cond"],
        "negative": io["unc"],
        "perturbed": io["ptb"],
        "isolated": io["mod"],
    }
    outputs: Outputs = {}
    for k, values in enumerate(parameters["mm"]):
        outputs[f"guider.multimodal.{k}"] = sampler.guide(guidance_from(values), estimates)
    return outputs


def guidance_from(values: dict) -> sampler.Guidance:
    """Guidance from the reference's names."""
    return sampler.Guidance(
        guidance_scale=values.get("cfg_scale", 1.0),
        stg_scale=values.get("stg_scale", 0.0),
        stg_blocks=tuple(values.get("stg_blocks") or ()),
        modality_scale=values.get("modality_scale", 1.0),
        guidance_rescale=values.get("rescale_scale", 0.0),
        skip_step=values.get("skip_step", 0),
    )


def _loops(parameters: dict[str, Any], io: dict[str, mx.array]) -> Outputs:
    start: State = {name: _state(io, name) for name in _STREAMS}
    denoiser = _StandIn(io)
    outputs: Outputs = {}
    for name, loop in _samplers(parameters, io).items():
        denoiser.sigmas.clear()
        sigmas = io["res_sigmas" if name.startswith("res2s") else "loop_sigmas"]
        end = loop(denoiser, start, sigmas.tolist())
        for stream, state in end.items():
            outputs[f"loop.{name}.{stream}"] = state.latent
        if name.startswith("res2s"):
            outputs[f"loop.{name}.evaluations"] = np.array(denoiser.sigmas)
    return outputs


def _samplers(parameters: dict[str, Any], io: dict[str, mx.array]) -> dict[str, Any]:
    res_2s = partial(
        sampler.res_2s,
        eta=parameters["eta"],
        noise=_noise(io, "res2s", ".step"),
        middle_noise=_noise(io, "res2s", ".sub"),
    )
    return {
        "euler": sampler.euler,
        "gradient": sampler.gradient_estimation,
        "ancestral": partial(sampler.ancestral, noise=_noise(io, "loopnoise")),
        "res2s": res_2s,
        "res2s_nobong": partial(res_2s, refine_anchor=False),
        "res2s_masked": partial(res_2s, renew=ltx_formulas.renew_by_token),
    }


def _noise(io: dict[str, mx.array], prefix: str, suffix: str = "") -> sampler.Noise:
    """The case's noise of each step, for both streams."""
    return lambda step: {name: io[f"{prefix}.{step}{suffix}.{name}"] for name in _STREAMS}


class _StandIn:
    """A denoiser without a network; it records the sigma of every call."""

    def __init__(self, io: dict[str, mx.array]):
        self.io = io
        self.sigmas: list[float] = []

    def __call__(self, state: State, sigma: float, step: int) -> StreamArrays:
        self.sigmas.append(sigma)
        denoised: StreamArrays = {}
        for name, stream in state.items():
            mixed = mx.tanh(stream.latent @ self.io[f"{name}.mix"])
            denoised[name] = mixed * (1 - sigma / 2) + 0.3 * stream.clean_latent
        return denoised
