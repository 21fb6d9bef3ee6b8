"""Previews: contact sheets of the clean estimate that cost little and change nothing."""

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from mlx.utils import tree_flatten
from PIL import Image
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.cli import inline_images
from LTX_2_MLX.development.full_size import write_hollow
from LTX_2_MLX.development.network_calls import NetworkCall, record_call
from LTX_2_MLX.diffusion.state import AudioClock
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.audio_decoding import decode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder
from LTX_2_MLX.models.ltx.config import transformer_operations
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.models.tae import PRESETS, TinyAutoencoder, TinyConfig
from LTX_2_MLX.pipelines.generate import Options, generate_video, prepare
from LTX_2_MLX.pipelines.generation.tiny_frames import TinyFrames
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import LatentShape, VideoShape

MANIFESTS = Path(__file__).parents[2] / "manifests"
SIZE = VideoShape(97, 480, 704)
SMALL_TINY = TinyConfig(latent_channels=8, patch_size=4, encoder_width=4, decoder_widths=(8, 6, 4, 3), time=8)


class Seen(SilentProgress):
    """Keeps notes, and the previews in the order in which they were shown."""

    def __init__(self):
        self.previews, self.notes = [], []

    def preview(self, stage, path):
        self.previews.append((stage, path.name))

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def sounding(files, tmp_path_factory):
    """The small files, with a checkpoint that makes sound."""
    path = tmp_path_factory.mktemp("sound") / "ltx.safetensors"
    return SimpleNamespace(**vars(files) | {"weights": tiny_checkpoints.write_weights(path, sound=True)})


def options(files, **changes) -> Options:
    named = {
        "weights": str(files.weights), "gemma": str(files.gemma), "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora), "model_variant": "dev", "steps_stage1": 3, "steps_stage2": 1, "cfg": 1,
        "height": 64, "width": 96, "frames": 17,
    }  # fmt: skip
    return Options("A blue ball", **named | changes)


def made(asked: Options) -> tuple[np.ndarray, Seen, StageRunner]:
    seen = Seen()
    runner = StageRunner(seen)
    ready = prepare(asked, seen.note)
    video = generate_video(ready.request, runner, ready.options)
    return video.array(), seen, runner


def test_sheets_are_written_after_steps_and_the_video_stays_the_same_bit_by_bit(sounding, tmp_path):
    plain, _, _ = made(options(sounding))
    folder = tmp_path / "new" / "sheets"
    shown, seen, runner = made(options(sounding, preview=folder, preview_every=2))
    np.testing.assert_array_equal(shown, plain)
    names = ["stage_1-2.png", "stage_1-3.png", "stage_2-1.png"]
    assert seen.previews == [(name[:7], name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == names
    first, last = Image.open(folder / names[0]), Image.open(folder / names[-1])
    # Three frames, small ones enlarged; stage 1 has the sound of this dev model, so stage 2 shows no waveform.
    assert first.width == last.width == 3 * (200 + 4) + 4
    assert first.height - last.height == round(200 * 64 / 96) // 3
    assert np.asarray(first.convert("L")).std() > 10
    assert not any("preview" in report.name for report in runner.reports)


def test_plan_counts_the_decoders_beside_the_transformer(sounding, tmp_path):
    def stage_1(**changes):
        plan = prepare(options(sounding, **changes)).plan
        return next(stage for stage in plan.stages if stage.name == "stage_1"), plan.lines()

    plain, _ = stage_1()
    with_preview, lines = stage_1(preview=tmp_path)
    decoders = prepare(options(sounding)).plan.stages
    weights = sum(stage.weights_bytes for stage in decoders if stage.name in ("decode", "decode_audio"))
    assert with_preview.weights_bytes == plain.weights_bytes + weights
    assert any(line.startswith("Previews of stage_1: ") for line in lines)


@pytest.mark.parametrize(
    ("vae", "transformer", "vocoder"),
    [
        ("ltx-2-19b-dev.safetensors.vae", "ltx-2-19b-dev.safetensors.transformer", Vocoder),
        ("ltx-2.3-22b-dev.safetensors.vae", "ltx-2.3-22b-dev.safetensors.transformer", BandwidthExtensionVocoder),
        ("tiny", "ltx-2.3-22b-dev.safetensors.transformer", None),
    ],
)
def test_a_preview_costs_at_most_a_tenth_of_a_step_without_guidance(vae, transformer, vocoder, tmp_path):
    config = config_of(Transformer, write_hollow(tmp_path / "transformer", MANIFESTS / f"{transformer}.json.gz"))
    latent = SIZE.latent(PRESETS["taeltx2.3"].compression)
    sounds = AudioClock().num_latents(SIZE.num_frames, 24.0)
    step = transformer_operations(config, tokens=latent.num_tokens, audio_tokens=sounds, text_tokens=1024)
    frame = mx.zeros((1, 1, latent.height, latent.width, 128), mx.bfloat16)
    if vocoder is None:
        from LTX_2_MLX.development.work_record import recorded_work

        with recorded_work() as record:
            record.end_piece(TinyAutoencoder(PRESETS["taeltx2.3"]).decode(frame))
        assert 0 < 3 * record.total < 0.1 * step
        return

    def sound(decoder, own_vocoder):
        shape = (1, sounds, decoder.config.latent_bins, decoder.config.latent_channels)
        return list(decode_audio(decoder, own_vocoder, mx.zeros(shape, mx.bfloat16)))

    def one_frame(decoder):
        return list(decoder.stream([frame]))

    one = record_call(NetworkCall("frame", "", (vae,), (VideoDecoder,), one_frame), MANIFESTS, tmp_path)
    heard = record_call(NetworkCall("sound", "", (vae,), (AudioDecoder, vocoder), sound), MANIFESTS, tmp_path)
    share = (3 * one.total + heard.total) / step
    assert 0.02 < share < 0.1


def write_tiny(path: Path, network: TinyAutoencoder) -> Path:
    weights = {}
    for name, value in tree_flatten(network.parameters()):
        array = np.array(value)
        weights[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
    save_file(weights, str(path))
    return path


def test_a_model_that_decodes_by_diffusion_is_shown_by_the_tiny_decoder(tmp_path, monkeypatch):
    split = tiny_split_files.write_split_files(tmp_path / "ltx-2.5")
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr("LTX_2_MLX.checkpoints.resolve.weights_folders", lambda: [weights])
    named = {
        "weights": str(split.transformer), "gemma": str(split.gemma), "video_vae": str(split.video_vae),
        "model_variant": "distilled", "pipeline": "distilled", "steps": 2, "height": 64, "width": 96, "frames": 9,
        "preview": tmp_path / "sheets",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=r"taeltx2_3 is not on this machine.*download"):
        made(Options("A blue ball", **named))
    mx.random.seed(3)
    tiny = write_tiny(weights / "taeltx2_3.safetensors", TinyAutoencoder(SMALL_TINY))
    _, seen, _ = made(Options("A blue ball", **named))
    assert seen.previews == [("denoise", "denoise-1.png"), ("denoise", "denoise-2.png")]
    assert any("Previews are decoded by taeltx2_3.safetensors" in note for note in seen.notes)
    write_tiny(tiny, TinyAutoencoder(TinyConfig(16, 4, 4, (8, 6, 4, 3), time=8)))
    with pytest.raises(CheckpointError, match=r"16 channels.*makes 8 channels"):
        made(Options("A blue ball", **named))


def test_the_tiny_decoders_memory_is_planned(tmp_path):
    path = write_tiny(tmp_path / "tiny.safetensors", TinyAutoencoder(PRESETS["taeltx2.3"]))
    frames = TinyFrames(Checkpoint(path), LatentShape(1, 6, 9), mx.float32)
    planned = frames.estimate()
    network = frames.load()
    assert planned.weights_bytes == sum(value.nbytes for _, value in tree_flatten(network.parameters()))
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    assert frames.frame(network, mx.random.normal((1, 1, 6, 9, 128))).shape == (192, 288, 3)
    used = mx.get_peak_memory() - held
    assert used < planned.activation_bytes < 3 * used


def test_a_sheet_that_cannot_be_written_does_not_end_the_run(files, tmp_path):
    folder = tmp_path / "sheets"
    (folder / "stage_1-1.png").mkdir(parents=True)
    _, seen, _ = made(options(files, preview=folder))
    assert [note for note in seen.notes if "There are no more previews of stage_1" in note]
    assert seen.previews == [("stage_2", "stage_2-1.png")]
    with pytest.raises(RequestError, match="cannot be made"):
        made(options(files, preview=files.weights))


def test_options_without_an_effect_are_refused(files):
    with pytest.raises(RequestError, match="--preview-every"):
        options(files, preview_every=2)


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, None),
    ],
)
def test_terminals_that_show_images_are_known(environment, protocol):
    if protocol is None:
        with pytest.raises(RequestError, match="--preview-inline shows images in iTerm2"):
            inline_images.terminal_protocol(environment)
    else:
        assert inline_images.terminal_protocol(environment) == protocol


@pytest.mark.parametrize("protocol", ["iterm2", "kitty"])
def test_images_reach_the_terminal_whole(protocol, tmp_path):
    path = tmp_path / "sheet.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    written = io.StringIO()
    inline_images.write_image(path, written, protocol)
    found = re.findall(r"\033_G[^;]*;([^\033]*)\033\\" if protocol == "kitty" else r":([^\a]*)\a", written.getvalue())
    assert base64.b64decode("".join(found)) == path.read_bytes()
    assert all(len(piece) <= 4096 for piece in found) or protocol == "iterm2"
