"""One call of every published network at one size, from the names and shapes of its file; nothing is computed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.gemma4 import Gemma4
from LTX_2_MLX.checkpoints.load import build
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.development.full_size import write_hollow
from LTX_2_MLX.development.work_record import WorkRecord, recorded_work
from LTX_2_MLX.diffusion.state import AudioClock, VideoGrid
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import FIRST_INPUT, FrameDecoder, LatentStream
from LTX_2_MLX.models.flashvsr.transformer import FIRST_FRAMES, TransformerStream
from LTX_2_MLX.models.ltx.audio_decoding import decode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import decode as decode_by_diffusion
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import fitting_tiling
from LTX_2_MLX.models.ltx.duration_head import DurationHead
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig, VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.models.rife import IFNet, pad_for
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.requests import UpscaleRequest
from LTX_2_MLX.pipelines.upscale import tiles_for, upscale_pixels
from LTX_2_MLX.runtime.this_machine import GIB
from LTX_2_MLX.shapes import Compression, VideoShape

VIDEO = VideoShape(97, 960, 1408)
# FlashVSR's networks see multiples of 128 pixels.
FULL_HD = (1152, 1920)
_COMPRESSION = Compression(8, 32, 32)
_STAGE_1 = VideoShape(97, 480, 704)
_FRAME_RATE = 24.0
_TEXT_TOKENS = 1024
_WAN_CELL = 8
_DTYPE = mx.bfloat16
# All blocks are alike; two are enough to see what happens between them.
_BLOCKS = 2
# Of Gemma 3 12B and Gemma 4 12B: the embedding and 48 layers.
_NUM_STATES = 49
# Mel bins of the published audio autoencoders, and a second of sound.
_MEL_FRAMES = 100

# Published files that have a config; those of post-processing tell their sizes by shapes alone.
_WITH_CONFIG = ("ltx-", "gemma")

Call = Callable[..., Any]


@dataclass(frozen=True)
class NetworkCall:
    """One network and what it is asked.

    Attributes:
        name: For the table.
        size: What goes in, in words.
        files: Names of manifests, without ``.json.gz``.
        networks: Classes that are built from the first files that hold them.
        call: The networks to the arrays that the pipeline evaluates at the end.
    """

    name: str
    size: str
    files: tuple[str, ...]
    networks: tuple[Any, ...]
    call: Call


def record_call(call: NetworkCall, manifests: Path, folder: Path) -> WorkRecord:
    """The work of one call on a GPU.

    Args:
        call: One of ``CALLS``.
        manifests: Folder with the manifests of the published files.
        folder: For files of holes.
    """
    checkpoint = hollow(call, manifests, folder)
    networks = [build(network, checkpoint) for network in call.networks]
    for network in networks:
        network.set_dtype(_DTYPE)
    with as_backend("gpu"), recorded_work() as record:
        record.end_piece(call.call(*networks))
    return record


def hollow(call: NetworkCall, manifests: Path, folder: Path) -> Checkpoint:
    """A file of holes with the names and shapes of a call's networks."""
    sources = [manifests / f"{name}.json.gz" for name in call.files]
    has_config = call.files[0].startswith(_WITH_CONFIG)
    return write_hollow(folder / f"{call.files[0]}.hollow", *sources, with_config=has_config)


def _zeros(*shape: int) -> mx.array:
    return mx.zeros(shape, _DTYPE)


def _language_model(network: Gemma | Gemma4) -> list[mx.array]:
    model = network.model
    model.layers = model.layers[:_BLOCKS]
    ids = mx.zeros((1, _TEXT_TOKENS), mx.int32)
    return list(network(ids, mx.ones((1, _TEXT_TOKENS), mx.bool_)))


def _text_features(network: TextFeatures) -> Any:
    width = network.config.states_width // _NUM_STATES
    states = [_zeros(1, _TEXT_TOKENS, width)] * _NUM_STATES
    return [context for context in network(states, np.ones((1, _TEXT_TOKENS), bool)) if context is not None]


def _transformer(network: Transformer) -> Any:
    network.blocks = network.blocks[:_BLOCKS]
    grid = VideoGrid(VIDEO.latent(_COMPRESSION), _COMPRESSION, _FRAME_RATE)
    clock = AudioClock()
    sounds = clock.num_latents(VIDEO.num_frames, _FRAME_RATE)
    config = network.config
    sigma = mx.array([0.7])

    def stream(count: int, channels: int, positions: mx.array, width: int) -> StreamInput:
        context = _zeros(1, _TEXT_TOKENS, config.caption_channels or width)
        return StreamInput(_zeros(1, count, channels), sigma, positions, context)

    assert config.audio is not None, "published transformers have both streams"
    video = stream(grid.shape.num_tokens, config.video.in_channels, grid.positions(), config.video.width)
    audio = stream(sounds, config.audio.in_channels, clock.positions(sounds), config.audio.width)
    return network(video, audio, evaluate_blocks=True)


def _upscaler(shape: VideoShape, network: LatentUpscaler) -> Any:
    channels = network.config.in_channels
    latent = shape.latent(_COMPRESSION)
    statistics = LatentStatistics(LatentStatisticsConfig(channels))
    return network.upscale(mx.zeros((1, latent.num_frames, latent.height, latent.width, channels)), statistics)


def _encoder(network: VideoEncoder) -> Any:
    return network.encode(mx.zeros((1, VIDEO.num_frames, VIDEO.height, VIDEO.width, 3)))


def _decoder(network: VideoDecoder) -> Any:
    latent = VIDEO.latent(_COMPRESSION)
    channels = network.config.latent_channels
    chunks = network.stream([mx.zeros((1, latent.num_frames, latent.height, latent.width, channels))])
    return _last(chunks)


def _last(chunks: Iterable[mx.array]) -> mx.array:
    """The last chunk; the others are evaluated one by one, as they would be written."""
    last = None
    for chunk in chunks:
        mx.eval(chunk)
        last = chunk
    assert last is not None, "a clip has a chunk"
    return last


def _diffusion_decoder(video: VideoShape, network: DiffusionVideoDecoder) -> Any:
    # One block of each stage and the first tiles: the others repeat them.
    network.det_stages = [stage[:1] for stage in network.det_stages]
    network.diff_blocks = network.diff_blocks[:1]
    config = network.config
    latent = video.latent(config.compression)
    tiling = fitting_tiling(config, video, free_bytes=8 * GIB, weights_bytes=GIB)
    shape = (1, latent.num_frames, latent.height, latent.width, config.in_channels)
    return next(decode_by_diffusion(network, mx.zeros(shape), lambda part, first: mx.zeros(part), tiling=tiling))


def _sound(decoder: AudioDecoder, vocoder: Vocoder | BandwidthExtensionVocoder) -> Any:
    frames = AudioClock().num_latents(VIDEO.num_frames, _FRAME_RATE)
    config = decoder.config
    return _last(decode_audio(decoder, vocoder, mx.zeros((1, frames, config.latent_bins, config.latent_channels))))


def _audio_encoder(network: AudioEncoder) -> Any:
    config = network.config
    return network(mx.zeros((1, 4 * _MEL_FRAMES + 1, config.mel.num_bins, 2)))


def _duration(network: DurationHead) -> Any:
    video = _zeros(1, _TEXT_TOKENS, network.video_input_proj.weight.shape[1])
    return network({"video": video, "audio": _zeros(1, _TEXT_TOKENS, network.audio_input_proj.weight.shape[1])})


def _rife(network: IFNet) -> Any:
    frame = pad_for(mx.zeros((1, 1080, 1920, 3)), 1.0)
    first = network.encode_frame(frame)
    second = network.encode_frame(frame)
    mx.eval(first, second)
    return network.between(first, second, 0.5, 1.0)


def _upscale(network: RRDBNet | SRVGG) -> Any:
    request = UpscaleRequest(memory_limit_gb=48)
    tiles = tiles_for(network, VIDEO.height, VIDEO.width, request)
    return upscale_pixels(network, mx.zeros((1, VIDEO.height, VIDEO.width, 3)), network.scale, tiles)


def _latent_stream(transformer: WanTransformer, projection: LQProjection) -> Any:
    transformer.blocks = transformer.blocks[:_BLOCKS]
    height, width = FULL_HD
    prompt = _zeros(512, transformer.config.text_dim)
    # Which blocks of keys are kept follows from values; all of them is the most that a window can see.
    stream = LatentStream(projection, TransformerStream(transformer, prompt, Sparsity("dense")), causal=True)
    groups = [mx.zeros((1, frames, height, width, 3)) for frames in (1, *[4] * ((FIRST_INPUT - 1) // 4))]
    return stream.step(groups, _zeros(1, FIRST_FRAMES, height // _WAN_CELL, width // _WAN_CELL, 16))


def _frame_decoder(tiled: bool, network: Any) -> Any:
    height, width = FULL_HD
    decoder = FrameDecoder(TiledDecoder(network) if tiled else network)
    compression = network.compression
    config = network.config
    shape = (1, 1, height // compression.height, width // compression.width, config.latent_channels)
    for frames in (1, 4):
        last = decoder.step(_zeros(*shape), mx.zeros((1, frames, height, width, 3)))
    return last


def _wan_encoder(network: WanEncoder) -> Any:
    height, width = FULL_HD
    return network.encode(mx.zeros((1, 5, height, width, 3)))


_DENSE = "all blocks of keys"
_LTX = f"{VIDEO.height}×{VIDEO.width}×{VIDEO.num_frames}"
_HALF = f"{_STAGE_1.height}×{_STAGE_1.width}×{_STAGE_1.num_frames}"
_TEXT = f"{_TEXT_TOKENS} tokens"
_SR = f"{FULL_HD[0]}×{FULL_HD[1]}"
_19B = "ltx-2-19b-dev.safetensors"
_22B = "ltx-2.3-22b-dev.safetensors"
_25 = "ltx-2.5-22b-dev-transformer-bf16.safetensors"
_GEMMA4 = "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors"
_VAE_25 = "ltx-2.5-video-vae-bf16.safetensors"
_SOUND_25 = "ltx-2.5-audio-vae-bf16.safetensors"


def calls(by_diffusion: VideoShape = VIDEO) -> Iterator[NetworkCall]:
    """Every network of LTX-2, 2.3 and 2.5 at 960×1408 and 97 frames, and of post-processing at full HD.

    ``by_diffusion`` is what the diffusion decoder decodes; its graph takes minutes at the size of the others.
    """
    yield NetworkCall("Gemma 3", _TEXT, ("gemma-3-12b-it",), (Gemma,), _language_model)
    yield NetworkCall("Gemma 4", _TEXT, (_GEMMA4,), (Gemma4,), _language_model)
    transformers = {"2.0": (f"{_19B}.transformer",), "2.3": (f"{_22B}.transformer",), "2.5": (_25, _GEMMA4)}
    for version, files in transformers.items():
        yield NetworkCall(f"text features {version}", _TEXT, files, (TextFeatures,), _text_features)
        yield NetworkCall(f"transformer {version}", _LTX, files, (Transformer,), _transformer)
    yield NetworkCall("duration head", _TEXT, ("ltx-2.5-duration-head-bf16.safetensors",), (DurationHead,), _duration)
    yield from _upscaler_calls()
    yield from _autoencoder_calls()
    size = f"{by_diffusion.height}×{by_diffusion.width}×{by_diffusion.num_frames}"
    decode = partial(_diffusion_decoder, by_diffusion)
    yield NetworkCall("diffusion decoder 2.5", size, (_VAE_25,), (DiffusionVideoDecoder,), decode)
    yield from _post_processing_calls()
    yield from _super_resolve_calls()


def _upscaler_calls() -> Iterator[NetworkCall]:
    names = {
        "spatial ×2": ("ltx-2-spatial-upscaler-x2-1.0", _HALF, _STAGE_1),
        "spatial ×1.5": ("ltx-2.3-spatial-upscaler-x1.5-1.0", _HALF, _STAGE_1),
        "spatial ×2, 2.5": ("ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0", _HALF, _STAGE_1),
        "temporal ×2": ("ltx-2-temporal-upscaler-x2-1.0", _LTX, VIDEO),
    }
    for name, (file, size, shape) in names.items():
        call = partial(_upscaler, shape)
        yield NetworkCall(f"latent upscaler, {name}", size, (f"{file}.safetensors",), (LatentUpscaler,), call)


def _autoencoder_calls() -> Iterator[NetworkCall]:
    files = {"2.0": f"{_19B}.vae", "2.3": f"{_22B}.vae", "2.5": "ltx-2.5-video-vae-conv-bf16.safetensors"}
    for version, file in files.items():
        yield NetworkCall(f"video encoder {version}", _LTX, (file,), (VideoEncoder,), _encoder)
        yield NetworkCall(f"video decoder {version}", _LTX, (file,), (VideoDecoder,), _decoder)
    seconds = f"{VIDEO.num_frames / _FRAME_RATE:.0f} s of sound"
    yield NetworkCall("sound 2.0", seconds, (f"{_19B}.vae",), (AudioDecoder, Vocoder), _sound)
    yield NetworkCall("sound 2.3", seconds, (f"{_22B}.vae",), (AudioDecoder, BandwidthExtensionVocoder), _sound)
    yield NetworkCall("sound 2.5", seconds, (_SOUND_25,), (AudioDecoder, BandwidthExtensionVocoder), _sound)
    yield NetworkCall("audio encoder", "4 s of sound", (f"{_19B}.vae",), (AudioEncoder,), _audio_encoder)


def _post_processing_calls() -> Iterator[NetworkCall]:
    frame = f"a frame of {VIDEO.height}×{VIDEO.width}"
    yield NetworkCall("RIFE", "two frames of 1080×1920", ("flownet.pkl",), (IFNet,), _rife)
    yield NetworkCall("RRDBNet ×4", frame, ("RealESRGAN_x4plus.pth",), (RRDBNet,), _upscale)
    yield NetworkCall("SRVGG ×4", frame, ("realesr-general-x4v3.pth",), (SRVGG,), _upscale)


def _super_resolve_calls() -> Iterator[NetworkCall]:
    files = ("diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt")
    whole = partial(_frame_decoder, False)
    tiled = partial(_frame_decoder, True)
    networks = (WanTransformer, LQProjection)
    yield NetworkCall("FlashVSR transformer", f"{_SR}, {_DENSE}", files, networks, _latent_stream)
    yield NetworkCall("TCDecoder", _SR, ("TCDecoder.ckpt",), (ConditionalDecoder,), whole)
    yield NetworkCall("Wan 2.1 decoder in tiles", _SR, ("Wan2.1_VAE.pth",), (WanDecoder,), tiled)
    yield NetworkCall("Wan 2.1 decoder", _SR, ("Wan2.1_VAE.pth",), (WanDecoder,), whole)
    yield NetworkCall("Wan 2.2 decoder", _SR, ("Wan2.2_VAE.pth",), (WanDecoder,), whole)
    yield NetworkCall("Wan 2.1 encoder", _SR, ("Wan2.1_VAE.pth",), (WanEncoder,), _wan_encoder)
    yield NetworkCall("taew2_1", _SR, ("taew2_1.pth",), (TinyAutoencoder,), whole)
    yield NetworkCall("taew2_2", _SR, ("taew2_2.safetensors",), (TinyAutoencoder,), whole)
    yield NetworkCall("lighttaehy1_5", _SR, ("lighttaehy1_5.pth",), (LightTinyAutoencoder,), whole)
