"""Layout of detail-fidelity rendering, in both forms."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.dfr_layout import (
    AudioWindow,
    Canvas,
    RoundTile,
    conditioning_rate,
    even_slots,
    next_keyframes,
    round_tiles,
    spatial_tiles,
)
from LTX_2_MLX.verify.case import Case, Outputs


def dfr_layout(case: Case) -> Outputs:
    """The form of 400fd31, and the evenly spread slots of the other pipelines."""
    outputs: Outputs = {}
    for num_frames, rounds, frame_rate in case.spec["call"]["cases"]:
        outputs |= _layout(num_frames, rounds, frame_rate, snap=False)
    for name in case.outputs():
        kind, *numbers = name.split(".")
        if kind == "even":
            count, frames = map(int, numbers)
            outputs[name] = np.array(even_slots(count, frames))
    return outputs


def dfr_new_layout(case: Case) -> Outputs:
    """The newer form: also rates, sound windows and the tiles of the spatial stage."""
    outputs: Outputs = {}
    for num_frames, rounds, frame_rate in case.parameters["canvases"]:
        outputs |= _layout(num_frames, rounds, frame_rate, snap=True)
        outputs |= _sound(num_frames, rounds, frame_rate, case.parameters["audio_latents_per_second"])
    for number, window in enumerate(case.parameters["windows"]):
        audio = mx.array(case.io[window["input"]])
        for call_number, call in enumerate(window["calls"]):
            outputs[f"window{number}.call{call_number}"] = _window(call).resample(audio)
    for number, row in enumerate(case.parameters["epilogues"]):
        outputs |= _spatial(case, f"e{number}", row)
    return outputs


def _layout(num_frames: int, rounds: int, frame_rate: float, *, snap: bool) -> Outputs:
    name = f"f{num_frames}_r{rounds}"
    canvas = Canvas.for_frames(num_frames)
    outputs: Outputs = {
        f"{name}.canvas": np.array([canvas.num_frames, canvas.segment]),
        f"{name}.positions": np.array(canvas.positions),
        f"{name}.final_frames": np.array([(num_frames - 1) * 2**rounds + 1]),
    }
    frames = canvas.num_frames
    keyframes = list(canvas.positions)
    for number in range(1, rounds + 1):
        frames = 2 * (frames - 1) + 1
        seams = [2 * frame for frame in keyframes]
        tiles = round_tiles(seams, 2**number)
        keyframes = next_keyframes(seams, tiles)
        prefix = f"{name}.round{number}"
        playback = frame_rate * 2**number
        outputs |= {
            f"{prefix}.frames": np.array([frames]),
            f"{prefix}.conditioning_fps": np.array([conditioning_rate(playback, snap=snap)]),
            f"{prefix}.carry": np.array(keyframes),
        }
        if snap:
            outputs |= {f"{prefix}.playback_fps": np.array([playback]), f"{prefix}.seams": np.array(seams)}
        for tile_number, tile in enumerate(tiles):
            outputs |= _tile(f"{prefix}.tile{tile_number}", tile)
    return outputs


def _tile(prefix: str, tile: RoundTile) -> Outputs:
    span = (tile.first_frame, tile.last_frame, tile.first_latent, tile.stop_latent, tile.dropped_latents)
    return {
        f"{prefix}.range": np.array(span),
        f"{prefix}.anchors": np.array(tile.keyframes),
        f"{prefix}.slots": np.array(tile.slots),
        f"{prefix}.slot_seeds": np.array(tile.slot_seeds),
    }


def _sound(num_frames: int, rounds: int, frame_rate: float, latents_per_second: float) -> Outputs:
    """Sound of the stages and of every tile, and the finished clip's length."""
    name = f"f{num_frames}_r{rounds}"
    canvas = Canvas.for_frames(num_frames)
    tokens = round(canvas.num_frames / frame_rate * latents_per_second)
    final_frames = (num_frames - 1) * 2**rounds + 1
    outputs: Outputs = {
        f"{name}.stage.audio_tokens": np.array([tokens]),
        f"{name}.stage.conditioning_fps": np.array([conditioning_rate(frame_rate)]),
        f"{name}.final_seconds": np.array([final_frames / (frame_rate * 2**rounds)]),
    }
    keyframes = list(canvas.positions)
    for number in range(1, rounds + 1):
        seams = [2 * frame for frame in keyframes]
        tiles = round_tiles(seams, 2**number)
        keyframes = next_keyframes(seams, tiles)
        playback = frame_rate * 2**number
        for tile_number, tile in enumerate(tiles):
            window = AudioWindow(
                first_frame=tile.first_frame,
                num_frames=tile.num_frames,
                playback_rate=playback,
                conditioning_rate=conditioning_rate(playback),
                source_seconds=canvas.num_frames / frame_rate,
                latents_per_second=latents_per_second,
            )
            prefix = f"{name}.round{number}.tile{tile_number}"
            outputs[f"{prefix}.audio_tokens"] = np.array([window.num_tokens])
            outputs[f"{prefix}.audio_reads"] = window.reads(tokens)
    return outputs


def _window(call: dict) -> AudioWindow:
    return AudioWindow(
        first_frame=call["pixel_start"],
        num_frames=call["tile_frames"],
        playback_rate=call["playback_fps"],
        conditioning_rate=call["conditioning_fps"],
        source_seconds=call["source_seconds"],
        latents_per_second=call["audio_latents_per_second"],
    )


def _spatial(case: Case, name: str, row: list) -> Outputs:
    tiles = spatial_tiles(*row)
    spans = [(tile.time, tile.height, tile.width) for tile in tiles]
    outputs: Outputs = {
        f"{name}.tiles": np.array([[end for span in row for end in (span.start, span.stop)] for row in spans])
    }
    stored = case.outputs()
    for number, tile in enumerate(tiles):
        axes = {"time": tile.time_weights, "height": tile.height_weights, "width": tile.width_weights}
        values = {f"{name}.max_{axis}.{number}": weights for axis, weights in axes.items()}
        values[f"{name}.weights.{number}"] = tile.weights
        # A case holds the weights of small tiles whole, of large ones their largest value along each axis.
        outputs |= {key: value for key, value in values.items() if key in stored}
    return outputs
