"""A denoising step by one process and by several, to be timed in turns."""

from collections.abc import Callable

import mlx.core as mx

from LTX_2_MLX.bench.workloads import Widths, transformer_config, workloads
from LTX_2_MLX.diffusion.sampler import Guidance, both_streams, guided
from LTX_2_MLX.diffusion.state import AudioClock, State, StreamArrays, VideoGrid, start_state
from LTX_2_MLX.models.ltx.config import TransformerConfig
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.denoise import predictor
from LTX_2_MLX.pipelines.generation.sharing import shared
from LTX_2_MLX.shapes import Compression, VideoShape

_TEXT_TOKENS = 128


class Step:
    """A denoising step with stand-in weights.

    Args:
        heads: Of 128 features.
        layers: Blocks.
        size: Frames, height and width of the video.
        cfg: Guidance scale; above 1 a step has two passes.

    Attributes:
        num_tokens: Of the video.
    """

    def __init__(self, heads: int, layers: int, size: tuple[int, int, int], cfg: float) -> None:
        shape = VideoShape(*size)
        widths = Widths(heads=heads, layers=layers)
        network = workloads(shape, _TEXT_TOKENS, widths, mx.float32)["transformer"].build()
        mx.eval(network.parameters())
        config = transformer_config(widths)
        assert config.audio is not None
        grid = VideoGrid(shape.latent(Compression(8, 32, 32)), Compression(8, 32, 32), 24)
        self.num_tokens = grid.shape.num_tokens
        tokens = mx.random.normal((1, self.num_tokens, config.video.in_channels), key=mx.random.key(0))
        length = AudioClock().num_latents(size[0], 24)
        audio = mx.random.normal((1, length, config.audio.in_channels), key=mx.random.key(1))
        self.state: State = {
            "video": start_state(tokens, grid.positions()),
            "audio": start_state(audio, AudioClock().positions(length)),
        }
        contexts = _random_contexts(config)
        guidance = both_streams(Guidance(guidance_scale=cfg))
        self.denoise: dict[str | None, Callable[[State, float, int], StreamArrays]] = {}
        assert isinstance(network, Transformer)
        for mode in (None, "guidance", "sequence"):
            predict = predictor(network, contexts, guidance)
            self.denoise[mode] = guided(predict if mode is None else shared(predict, mode, network, contexts), guidance)

    def run(self, mode: str | None) -> None:
        """One step in a mode; None: by this process alone."""
        mx.eval(self.denoise[mode](self.state, 0.7, 0))


def _random_contexts(config: TransformerConfig) -> dict[str, mx.array]:
    """Contexts of two prompts for both streams."""
    contexts = {}
    for prompt in ("positive", "negative"):
        for name, stream in (("video", config.video), ("audio", config.audio)):
            assert stream is not None
            channels = config.caption_channels or stream.width
            contexts[f"{prompt}.{name}"] = mx.random.normal((1, _TEXT_TOKENS, channels), key=mx.random.key(2))
    return contexts
