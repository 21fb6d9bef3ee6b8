"""What a run takes in memory and on disk, from headers and sizes alone, before anything is loaded.

Working memory is counted in arrays of one token or one pixel that live at once. The counts were fitted on the CPU
backend by ``scripts/bench_super_resolve.py plan``; what a GPU saves (no unfolded convolutions, no scores) is taken off.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.errors import MediaError, MemoryBudgetError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.flashvsr.block_attention import max_elements
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import FIRST_SEEN, NEXT_SEEN
from LTX_2_MLX.models.tae import ConditionalConfig, TinyConfig
from LTX_2_MLX.models.wan.tiled_decoder import PUBLISHED_TILE
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.models.wan.vae import WanVAEConfig
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.super_resolve.areas import Areas, areas_of
from LTX_2_MLX.pipelines.super_resolve.decoders import DECODERS, LATENT_CHANNELS
from LTX_2_MLX.pipelines.super_resolve.files import Files, open_files
from LTX_2_MLX.pipelines.super_resolve.request import DECODE_STAGE, LATENT_STAGE, STAGE, Request
from LTX_2_MLX.runtime.memory import GIB, budget_bytes

# Pixels of a token along each side, and tokens of a slice of two latent frames.
_CELL = 16
# Of the published prompt.
_PROMPT_TOKENS = 512
# Arrays of one token's features that live in a block: queries, keys, values, their turned copies, the feed-forward.
_TOKEN_ARRAYS = 30.4
# Arrays of one pixel's channels at full size: of a tiny decoder's last layer, two frames at a time, and of a Wan
# decoder's, four frames; and the floats of the frames themselves while their colours are fixed.
_TINY_ARRAYS, _WAN_ARRAYS, _FRAME_FLOATS = 6.5, 34, 130
_FRAMES_HELD = 30
# What the CPU backend adds by unfolding a convolution's input: 9 taps of two frames, 27 of four and their padding.
_TINY_UNFOLDED, _WAN_UNFOLDED = 18, 133
# Floats of one token in the projector, and what unfolding adds.
_PROJECTOR_FLOATS, _PROJECTOR_UNFOLDED = 20_000, 80_000


@dataclass(frozen=True)
class StageMemory:
    """One stage's memory in bytes.

    Attributes:
        name: As in progress and reports.
        weights_bytes: The networks'.
        cache_bytes: Keys and values of earlier chunks.
        working_bytes: What comes and goes, at its largest.
    """

    name: str
    weights_bytes: int
    cache_bytes: int
    working_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.working_bytes


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        sizes: Lines that tell sizes and choices.
        stages: In order.
        disk_bytes: Temporary files; None while the clip's length is unknown.
        note: What the user has to know of a choice that was made for them.
        budget_bytes: What it may use; None: nobody has said.
    """

    sizes: tuple[str, ...]
    stages: tuple[StageMemory, ...]
    disk_bytes: int | None
    note: str | None = None
    budget_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """The largest stage's memory."""
        return max(stage.peak_bytes for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """The plan for a program: bytes by stage."""
        stages = [{"stage": stage.name, **asdict(stage), "peak_bytes": stage.peak_bytes} for stage in self.stages]
        for stage in stages:
            del stage["name"]
        return {
            "sizes": list(self.sizes),
            "stages": stages,
            "peak_bytes": self.peak_bytes,
            "budget_bytes": self.budget_bytes,
            "fits": self.budget_bytes is None or self.peak_bytes <= self.budget_bytes,
            "disk_bytes": self.disk_bytes,
            "note": self.note,
        }

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        return [*((self.note,) if self.note else ()), *self.rows()]

    def rows(self) -> list[str]:
        """The plan without the note, which ``super_resolve`` tells itself."""
        rows = [
            f"{stage.name}: {_size(stage.peak_bytes)} (weights {_size(stage.weights_bytes)}, keys and values "
            f"{_size(stage.cache_bytes)}, working memory {_size(stage.working_bytes)})"
            for stage in self.stages
        ]
        disk = "of the clip's length" if self.disk_bytes is None else _size(self.disk_bytes)
        return [*self.sizes, *rows, f"Temporary files: {disk}."]


def plan(stream: FrameStream, request: Request, budget: int | None = None) -> Plan:
    """What super-resolving a clip takes, beside a budget of memory. Its frames are not read.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If the picture is too small.
    """
    files, areas = open_files(request), areas_of(stream.height, stream.width, request)
    height, width = areas.output
    tiles = f", in {len(areas.tiles)} tiles of up to {request.tile_size} source pixels" if request.tile_dit else ""
    sizes = (
        f"{stream.width} x {stream.height} -> {width} x {height} pixels{tiles}, decoder {files.decoder_name}, "
        f"{request.attention} attention.",
    )
    return Plan(
        sizes=sizes,
        stages=_stages(files, areas, request),
        disk_bytes=_disk(stream, areas, request),
        note=files.note,
        budget_bytes=budget,
    )


def check_plan(stream: FrameStream, request: Request, free_disk: int, budget: int | None = None) -> Plan:
    """The plan, if memory and disk allow it.

    Args:
        stream: The clip.
        request: What to do with it.
        free_disk: Bytes free where temporary files go.
        budget: Bytes of memory; None: what the machine lends.

    Raises:
        MemoryBudgetError: If it needs more memory; the message says what would fit.
        MediaError: If the temporary files would not fit.
    """
    budget = budget_bytes() if budget is None else budget
    wanted = plan(stream, request, budget)
    if wanted.peak_bytes > budget:
        raise MemoryBudgetError(f"{advice(stream, request, wanted, budget)} --force goes on all the same.")
    if (wanted.disk_bytes or 0) > free_disk:
        raise MediaError(
            f"Temporary files take about {_size(wanted.disk_bytes)}, {_size(free_disk)} are free. "
            f"Free some disk, or set TMPDIR to a larger one."
        )
    return wanted


def prepare(
    stream: FrameStream, request: Request, budget: int, free_disk: int, *, fit: bool = False, refuse: bool = True
) -> "Milder":
    """The request and its plan, with no flags where it is unchanged.

    Args:
        stream: The clip.
        request: What to do with it.
        budget: Bytes of memory.
        free_disk: Bytes free where temporary files go.
        fit: Change the request to the nearest that fits the budget.
        refuse: Raise as ``check_plan`` does; otherwise only plan.
    """
    ready = fitted(stream, request, budget) if fit else Milder(request, plan(stream, request, budget), flags="")
    if refuse:
        check_plan(stream, ready.request, free_disk, budget)
    return ready


def advice(stream: FrameStream, request: Request, wanted: Plan, budget: int | None = None) -> str:
    """Whether a plan fits the budget of memory (None: what the machine lends), and if not, which flags would."""
    budget = budget_bytes() if budget is None else budget
    if wanted.peak_bytes <= budget:
        return f"Peak {_size(wanted.peak_bytes)} of memory; the budget is {_size(budget)}."
    found = nearest(stream, request, budget)
    cure = f"Pass {found.flags}: {_size(found.plan.peak_bytes)}." if found else "Nothing smaller would fit either."
    return f"This takes about {_size(wanted.peak_bytes)} of memory, the budget is {_size(budget)}. {cure}"


@dataclass(frozen=True)
class Milder:
    """A request that needs less, its plan, and the flags that make it."""

    request: Request
    plan: Plan
    flags: str


def nearest(stream: FrameStream, request: Request, budget: int) -> Milder | None:
    """The first milder request that fits."""
    for flags, changes in _milder(request):
        milder = replace(request, **changes)
        if (found := plan(stream, milder, budget)).peak_bytes <= budget:
            return Milder(milder, found, flags)
    return None


def fitted(stream: FrameStream, request: Request, budget: int) -> Milder:
    """The request itself, with no flags, or the nearest that fits the budget.

    Raises:
        MemoryBudgetError: If none fits.
    """
    wanted = plan(stream, request, budget)
    if wanted.peak_bytes <= budget:
        return Milder(request, wanted, flags="")
    if (found := nearest(stream, request, budget)) is None:
        raise MemoryBudgetError(advice(stream, request, wanted, budget))
    return found


def _milder(request: Request) -> list[tuple[str, dict]]:
    steps: list[tuple[str, dict]] = []
    if not request.unload_dit:
        steps.append(("--unload-dit", {"unload_dit": True}))
    if request.mode == "full" and not request.tile_vae:
        steps.append(("--tile-vae", {"tile_vae": True}))
    for size in (512, 256, 192, 128, 96, 64):
        if not request.tile_dit or size < request.tile_size:
            overlap = min(request.overlap or 24, size // 4)
            changes = {"tile_dit": True, "tile_size": size, "overlap": overlap}
            flags = f"--tile-dit --tile-size {size} --overlap {overlap}"
            steps += [(flags, changes), (f"{flags} --unload-dit", changes | {"unload_dit": True})]
    return steps


def _stages(files: Files, areas: Areas, request: Request) -> tuple[StageMemory, ...]:
    dtype = request.mlx_dtype
    networks = ((WanTransformer, files.transformer), (LQProjection, files.projector))
    makers = sum(weights_bytes(network, checkpoint, dtype=dtype) for network, checkpoint in networks)
    network = DECODERS[files.decoder_name].network
    decoder = weights_bytes(network, files.decoder, dtype=dtype)
    transformer_config = config_of(WanTransformer, files.transformer)
    decoder_config = config_of(network, files.decoder)
    # The largest tile decides.
    height, width = max((fit.target for fit in areas.fits), key=lambda size: size[0] * size[1])
    cache = _cache(transformer_config, height, width, request)
    latents = _latent_working(transformer_config, height, width, dtype)
    frames = _frame_working(decoder_config, height, width, request) + _picture(areas)
    if request.unload_dit:
        return StageMemory(LATENT_STAGE, makers, cache, latents), StageMemory(DECODE_STAGE, decoder, 0, frames)
    return (StageMemory(STAGE, makers + decoder, cache, max(latents, frames)),)


def _cache(config: WanTransformerConfig, height: int, width: int, request: Request) -> int:
    token_bytes = config.dim * 2 * request.mlx_dtype.size
    # Two slices are kept at least. The block at work holds one more; the prompt's keys and values stay.
    tokens = _slice_tokens(height, width) * (config.num_layers * max(2, int(request.kv_ratio)) + 1)
    return token_bytes * (tokens + config.num_layers * _PROMPT_TOKENS)


def _slice_tokens(height: int, width: int) -> int:
    return 2 * (height // _CELL) * (width // _CELL)


def _latent_working(config: WanTransformerConfig, height: int, width: int, dtype: mx.Dtype) -> int:
    cells, unfolding = (height // _CELL) * (width // _CELL), on_cpu()
    # The first chunk has three slices.
    block = int(3 * _slice_tokens(height, width) * _TOKEN_ARRAYS * config.dim) * dtype.size
    # A CPU forms the scores of every token for the prompt's, a GPU copies of the keys and values that it gathers.
    scores = 3 * _slice_tokens(height, width) * config.num_heads * _PROMPT_TOKENS * 8 if unfolding else 0
    block += 0 if unfolding else max_elements() * dtype.size
    projector = cells * (_PROJECTOR_FLOATS + _PROJECTOR_UNFOLDED * unfolding) * dtype.size
    return max(block, projector, scores)


def _frame_working(
    config: WanVAEConfig | TinyConfig | ConditionalConfig, height: int, width: int, request: Request
) -> int:
    unfolding = on_cpu()
    frames = height * width * _FRAME_FLOATS * 4
    if isinstance(config, WanVAEConfig):
        rows, columns = (side * 8 for side in PUBLISHED_TILE)
        seen = min(height, rows) * min(width, columns) if request.tile_vae else height * width
        arrays = config.decoder_width * (_WAN_ARRAYS + _WAN_UNFOLDED * unfolding)
    else:
        last = config.widths[-1] if isinstance(config, ConditionalConfig) else config.decoder_widths[-1]
        seen, arrays = height * width, last * (_TINY_ARRAYS + _TINY_UNFOLDED * unfolding)
    # Beside the layer at work: the frames that come in, and those that are made, in float32.
    return max(frames, int(seen * arrays) * request.mlx_dtype.size + height * width * _FRAMES_HELD * 4)


def _picture(areas: Areas) -> int:
    """Frames that are joined of tiles, float32, in their sum, their weights and the quotient."""
    height, width = areas.output
    return height * width * 3 * 4 * 3 if len(areas.tiles) > 1 else 0


def _disk(stream: FrameStream, areas: Areas, request: Request) -> int | None:
    if not request.unload_dit and len(areas.tiles) == 1:
        return 0
    if stream.num_frames is None:
        return None
    latent_frames = (stream.num_frames + FIRST_SEEN + NEXT_SEEN) // 4
    sizes = [(fit.target, fit.output) for fit in areas.fits]
    latents = sum(h // 8 * (w // 8) * LATENT_CHANNELS * 4 for (h, w), _ in sizes) * latent_frames
    tiles = sum(h * w * 3 for _, (h, w) in sizes) * stream.num_frames
    source = stream.num_frames * stream.height * stream.width * 3
    return source + latents * request.unload_dit + tiles * (len(sizes) > 1)


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if abs(count) >= GIB else f"{count / 2**20:.0f} MiB"
