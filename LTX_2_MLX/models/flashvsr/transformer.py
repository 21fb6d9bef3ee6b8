"""Noise and tokens of the low-quality frames to the clean latent, in one step, a few latent frames at a time.

The transformer is Wan's. What makes it FlashVSR's is here: attention in windows, sparse, and a memory of the keys and
values of the windows before.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.flashvsr.block_attention import WINDOW, WINDOW_SIZE, Sparsity, attend, locality, pool, select
from LTX_2_MLX.models.wan.transformer import Attend, WanTransformer, join_heads, rotary_tables, rotate, split_heads

# Latent frames of a clip's first chunk and of every later one.
FIRST_FRAMES, NEXT_FRAMES = 6, 2
# Tokens of a chunk in time, height and width.
Grid = tuple[int, int, int]
# The model was distilled to one step from pure noise.
_TIMESTEP = 1000.0


class WindowMemory:
    """Keys and values of one block's windows of earlier chunks, a list of slices of time each."""

    def __init__(self) -> None:
        self.keys: list[mx.array] = []
        self.values: list[mx.array] = []

    def extend(self, keys: mx.array, values: mx.array, slices: int) -> tuple[mx.array, mx.array]:
        """Hold ``slices`` more of ``(heads, N, d)``; all that is held, the oldest first, ``(heads, N', d)``."""
        self.keys += mx.split(keys, slices, axis=1)
        self.values += mx.split(values, slices, axis=1)
        return mx.concatenate(self.keys, axis=1), mx.concatenate(self.values, axis=1)

    def forget(self, kv_ratio: float) -> None:
        """Drop the oldest slice when there are more than ``kv_ratio``; never more than this one."""
        if len(self.keys) > int(kv_ratio):
            self.keys, self.values = self.keys[1:], self.values[1:]
        # Pieces of a split share one buffer: a copy of each lets the oldest go when its turn comes.
        self.keys, self.values = [mx.contiguous(k) for k in self.keys], [mx.contiguous(v) for v in self.values]
        mx.eval(self.keys, self.values)


class TransformerStream:
    """One clip's way through the transformer, chunk by chunk.

    Attributes:
        memories: One per block.
        time, modulation: The head's and the blocks' modulation; constants of the checkpoint.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        prompt: mx.array,
        sparsity: Sparsity,
        kv_ratio: float = 3.0,
        on_mask: Callable[[np.ndarray], None] | None = None,
    ):
        """Prepare what all chunks share.

        Args:
            transformer: The network.
            prompt: Text features ``(L, text_dim)``, the published prompt.
            sparsity: What attention keeps; its ratio is for this clip's size.
            kv_ratio: Slices of windows to remember, at least 2 of them.
            on_mask: Called with the kept pairs of every block, in order.
        """
        self.transformer = transformer
        self.sparsity = sparsity
        self.kv_ratio = kv_ratio
        self.on_mask = on_mask or (lambda mask: None)
        self.context = transformer.embed_context(prompt)
        self.time, self.modulation = transformer.embed_time(_TIMESTEP)
        self.memories = [WindowMemory() for _ in transformer.blocks]
        self.frames_seen = 0
        mx.eval(self.context, self.time, self.modulation)

    def step(self, noise: mx.array, lq_tokens: Sequence[mx.array]) -> mx.array:
        """The clean latent of the next frames.

        Args:
            noise: ``(1, T, H, W, C)``: 6 frames at a clip's start, 2 later; H and W multiples of 16.
            lq_tokens: Tokens ``(1, T, H / 2, W / 2, dim)`` added before the first block, the second, and so on.

        Raises:
            RequestError: If the sizes do not make whole windows.
        """
        return noise - self.predict(noise, lq_tokens)

    def predict(self, noise: mx.array, lq_tokens: Sequence[mx.array]) -> mx.array:
        """The network's own output for ``step``: noise minus clean."""
        x, grid = self.start(noise)
        x = self.run_blocks(x, grid, lq_tokens, range(len(self.transformer.blocks)))
        return self.finish(x, grid)

    def start(self, noise: mx.array) -> tuple[mx.array, Grid]:
        """Tokens of noise, window by window ``(N, D)``, and their numbers in time, height and width."""
        x = self.transformer.embed_latent(noise)
        grid = self.grid_of(noise)
        if any(size % window for size, window in zip(grid, WINDOW_SIZE, strict=True)):
            raise RequestError(
                f"A latent of {noise.shape[1:4]} cells does not make whole windows of {WINDOW_SIZE} tokens. "
                f"Pad the frames to multiples of 128 pixels."
            )
        return to_windows(x), grid

    def grid_of(self, noise: mx.array) -> Grid:
        """Numbers of tokens of a latent in time, height and width."""
        frames, rows, columns = noise.shape[1:4]
        t, h, w = self.transformer.config.patch_size
        return frames // t, rows // h, columns // w

    def run_blocks(self, x: mx.array, grid: Grid, lq_tokens: Sequence[mx.array], blocks: range) -> mx.array:
        """Tokens ``(N, D)`` after some consecutive blocks; every chunk goes through the same ones."""
        tables = self._tables(grid)
        for i in blocks:
            if i < len(lq_tokens):
                x = x + to_windows(lq_tokens[i][0]).astype(x.dtype)
            attend_block = self._attention(i, grid, tables)
            x = self.transformer.blocks[i](x, self.modulation, self.context[i], attend_block)
            mx.eval(x)
            self.memories[i].forget(self.kv_ratio)
        self.frames_seen += grid[0]
        return x

    def finish(self, x: mx.array, grid: Grid) -> mx.array:
        """The network's own output of the last block's tokens."""
        return self.transformer.unembed(from_windows(x, grid), self.time)

    def _tables(self, grid: Grid) -> tuple[mx.array, mx.array]:
        frames, rows, columns = grid
        positions = np.stack(np.meshgrid(range(frames), range(rows), range(columns), indexing="ij"), axis=-1)
        positions[..., 0] += self.frames_seen
        return rotary_tables(
            self.transformer.config.head_dim, np.array(to_windows(mx.array(positions))).astype(np.float64)
        )

    def _attention(self, index: int, grid: Grid, tables: tuple[mx.array, mx.array]) -> Attend:
        """Self-attention of block ``index``: windows of now over windows of now and before."""
        heads, block = self.transformer.config.num_heads, self.sparsity.keys_per_block
        near = locality(grid[1] // WINDOW_SIZE[1], grid[2] // WINDOW_SIZE[2], self.sparsity.local_range)

        def attention(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            queries, keys = (rotate(split_heads(part, heads)[0], tables) for part in (queries, keys))
            values = split_heads(values, heads)[0]
            keys, values = self.memories[index].extend(keys, values, grid[0] // WINDOW_SIZE[0])
            mask = select(pool(queries, WINDOW), pool(keys, block), near, self.sparsity)
            self.on_mask(mask)
            return join_heads(attend(queries, keys, values, mask))

        return attention


def to_windows(tokens: mx.array) -> mx.array:
    """Tokens ``(T, h, w, D)`` window by window, ``(N, D)``."""
    frames, rows, columns, features = tokens.shape
    t, h, w = WINDOW_SIZE
    x = tokens.reshape(frames // t, t, rows // h, h, columns // w, w, features)
    return x.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, features)


def from_windows(tokens: mx.array, grid: Grid) -> mx.array:
    """``(N, D)`` window by window back to ``(T, h, w, D)``."""
    frames, rows, columns = grid
    t, h, w = WINDOW_SIZE
    x = tokens.reshape(frames // t, rows // h, columns // w, t, h, w, -1)
    return x.transpose(0, 3, 1, 4, 2, 5, 6).reshape(frames, rows, columns, -1)
