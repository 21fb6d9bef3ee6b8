"""What a stage's activations will take, from configs and sizes alone. Nothing is loaded or computed.

The counts follow the arrays that live at once; on the CPU backend, whose convolutions unfold their input and whose
attention stores its scores, the factors were measured (tests/pipelines/test_memory.py holds them within 15 %). Those of
a GPU are counted from the arrays of one block, and are not held by a test. All grow with height, width and frames.
"""

from dataclasses import dataclass, replace

import mlx.core as mx

from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscalerConfig
from LTX_2_MLX.models.ltx.text_features import ConnectorConfig, TextFeaturesConfig
from LTX_2_MLX.models.ltx.transformer import TransformerConfig
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_config import VideoVAEConfig
from LTX_2_MLX.models.ltx.video_vae_memory import decoder_bytes, encoder_layers, run_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.video_latents import BLEND_COPIES, choose_tiling
from LTX_2_MLX.shapes import LatentShape, VideoShape

_FLOAT_BYTES = mx.float32.size
# Values that a 3×3×3 convolution reads for one that it writes: the CPU backend copies them side by side.
_TAPS = 27


@dataclass(frozen=True)
class _Factors:
    """How many arrays of a kind live at once.

    Attributes:
        scores: Of one attention, ``(B, heads, N, N)``.
        streams: Token arrays ``(N, D)`` of the block that runs and of the one behind it.
        text_streams: The same of the text: keys, values and what they are made from.
    """

    scores: float
    streams: float
    text_streams: float


_CPU = _Factors(scores=1.0, streams=22.5, text_streams=3.75)
_GPU = _Factors(scores=0.0, streams=18.0, text_streams=6.0)
# A convolution over frames runs as three over pictures on the CPU: so many padded inputs and so many results.
_SLICES = 3
# A block of the latent upscaler: its convolutions run in one graph, beside copies of the clip.
_BLOCK_CONVOLUTIONS, _BLOCK_CLIPS = 2, 4
# On a GPU, arrays of a residual block of the upscaler.
_GPU_UPSCALER_COPIES = 6
# Bytes of a picture's pixel while it is resized, and what the encoder's own start takes.
_PICTURE_PIXEL_BYTES, _ENCODER_START_BYTES = 126, 3_000_000


def _factors() -> _Factors:
    return _CPU if on_cpu() else _GPU


def text_encoder_bytes(config: GemmaConfig, *, prompts: int, tokens: int, length: int, item_bytes: int) -> int:
    """Gemma's turn: every state, padded, and one layer's arrays over the valid tokens.

    Args:
        config: Of the language model.
        prompts: In the batch.
        tokens: Of the longest prompt.
        length: Of a padded prompt.
        item_bytes: Of one value.
    """
    states = context_states_bytes(config, prompts=prompts, length=length, item_bytes=item_bytes)
    scores = prompts * config.num_attention_heads * tokens**2 * _FLOAT_BYTES
    layer = prompts * tokens * (8 * config.hidden_size + 6 * config.intermediate_size) * item_bytes
    return states + scores + layer


def context_states_bytes(config: GemmaConfig, *, prompts: int, length: int, item_bytes: int) -> int:
    """All of Gemma's states, which wait for the text features."""
    return (config.num_hidden_layers + 1) * prompts * length * config.hidden_size * item_bytes


def text_features_bytes(config: TextFeaturesConfig, *, prompts: int, length: int, item_bytes: int) -> int:
    """The larger connector over padded prompts, and the contexts that both give."""
    factors = _factors()

    def connector(part: ConnectorConfig) -> int:
        tokens = prompts * length
        return int((factors.scores * part.heads * length + factors.streams * part.width) * tokens * item_bytes)

    parts = [part for part in (config.video, config.audio) if part is not None]
    contexts = prompts * length * sum(part.width for part in parts) * item_bytes
    return contexts + max(map(connector, parts))


def transformer_bytes(
    config: TransformerConfig, *, tokens: int, audio_tokens: int, text_tokens: int, prompts: int, item_bytes: int
) -> int:
    """One call of the transformer with the contexts of all its passes.

    Args:
        config: Of the network.
        tokens: Of the video latent.
        audio_tokens: Of the audio latent; without effect where the network has none.
        text_tokens: Of a context.
        prompts: 2 where guidance has a negative one.
        item_bytes: Of one value.
    """
    factors, audio = _factors(), config.audio
    widths = config.video.width + (0 if audio is None else audio.width)
    contexts = (
        0 if config.caption_channels is None else prompts * text_tokens * 2 * config.caption_channels * _FLOAT_BYTES
    )
    text = (prompts + factors.text_streams) * text_tokens * widths
    streams = factors.streams * (tokens * config.video.width + (0 if audio is None else audio_tokens * audio.width))
    # Self-attention and attention to the text come one after the other.
    scores = factors.scores * config.video.heads * tokens * max(tokens, text_tokens)
    return int(contexts + (text + streams + scores) * item_bytes)


def upscaler_bytes(config: LatentUpscalerConfig, latent: LatentShape, *, item_bytes: int, waiting_bytes: int) -> int:
    """A latent upscaler's turn: its last layers, at the larger size.

    ``waiting_bytes`` are those of results that other stages wait with.
    """
    larger = config.output_shape(latent)
    values = larger.num_tokens * config.mid_channels * item_bytes
    # The widest weight is turned to MLX's axis order while it loads.
    widest = 6 * 9 * config.mid_channels**2 * item_bytes
    copies = float(_GPU_UPSCALER_COPIES)
    if _factors() is _CPU:
        padded = (larger.height + 2) * (larger.width + 2) / (larger.height * larger.width)
        copies = _BLOCK_CONVOLUTIONS * (_TAPS + _SLICES * padded) + _BLOCK_CLIPS
    return int(copies * values) + widest + waiting_bytes


def encoder_bytes(config: VideoVAEConfig, picture: VideoShape, *, item_bytes: int) -> int:
    """One picture's way to a latent frame."""
    pixels = picture.height * picture.width
    if _factors() is _CPU:
        unfolded = _TAPS * config.in_channels * _FLOAT_BYTES
        return pixels * (unfolded + _PICTURE_PIXEL_BYTES) + _ENCODER_START_BYTES
    return run_bytes(encoder_layers(config), (1, 1, picture.height, picture.width, 3), item_bytes)


def clip_encoder_bytes(config: VideoVAEConfig, size: VideoShape, *, item_bytes: int) -> int:
    """A clip's way to a latent, in pieces of whole frames."""
    return run_bytes(encoder_layers(config), (1, 1, size.height, size.width, 3), item_bytes)


def decode_bytes(
    config: VideoVAEConfig, latent: LatentShape, *, item_bytes: int, tile_size: int | None, budget: int | None = None
) -> int:
    """Decoding a latent to the end: piece by piece, or in tiles where the pieces do not fit or tiles are asked for.

    ``budget`` is that of ``choose_tiling``.

    Raises:
        MemoryBudgetError: If no tile is small enough.
    """
    decoder = VideoDecoder(config)
    decoder.set_dtype({4: mx.float32, 2: mx.bfloat16}[item_bytes])
    tiling = choose_tiling(decoder, latent, tile_size, budget)
    if tiling is None:
        return decoder_bytes(config, latent, item_bytes=item_bytes)
    sides = {"height": tiling.height, "width": tiling.width, "num_frames": tiling.time}
    tile = LatentShape(**{name: min(getattr(latent, name), side.size) for name, side in sides.items()})
    span = replace(latent, num_frames=tile.num_frames).pixels(config.decoder_compression)
    blended = BLEND_COPIES * 3 * _FLOAT_BYTES * span.num_frames * span.height * span.width
    return decoder_bytes(config, tile, item_bytes=item_bytes) + blended
