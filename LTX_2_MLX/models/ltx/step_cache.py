"""Block outputs of one denoising step, reused in the next ones while the blocks' input changes little."""

from collections.abc import Callable

import mlx.core as mx

from LTX_2_MLX.layers.transformer import modulate
from LTX_2_MLX.models.ltx.transformer import SCALE_SELF, SHIFT_SELF, StreamArgs
from LTX_2_MLX.shapes import StreamName

_NORM_EPS = 1e-6

Tokens = dict[StreamName, mx.array]


class StepCache:
    """What the blocks added to their input in the last computed step of one kind of pass.

    The relative changes of the video's modulated input from step to step are summed up. While the sum stays below the
    limit the blocks are skipped, and what they added last is added again.

    Attributes:
        limit: Sum of changes from which the blocks are computed anew.
        is_last: Whether the next call is the last step's, which is always computed.
        num_calls, num_reused: Calls so far, and those of them that skipped the blocks.
    """

    def __init__(self, limit: float, agree: Callable[[float], float]):
        self.limit = limit
        self._agree = agree
        self.is_last = False
        self.num_calls = 0
        self.num_reused = 0
        self._change = 0.0
        self._input: mx.array | None = None
        self._added: Tokens = {}

    def __call__(self, tokens: Tokens, args: StreamArgs, blocks: Callable[[Tokens], Tokens]) -> Tokens:
        """The tokens after the blocks: computed, or by what these added before.

        Args:
            tokens: Before the blocks, ``(B, N, D)`` of each stream.
            args: Of the video stream.
            blocks: Tokens through all blocks.
        """
        self.num_calls += 1
        entering = modulate(
            mx.fast.rms_norm(tokens["video"], None, _NORM_EPS), *args.modulation.rows(SCALE_SELF, SHIFT_SELF)
        )
        if args.share is not None:
            entering = args.share.gather(entering)
        mx.eval(entering)
        before = self._input
        self._input = entering
        if before is not None:
            self._change += self._agree(float(_mean(entering - before) / _mean(before)))
        if self._added.keys() == tokens.keys() and not self.is_last and self._change < self.limit:
            self.num_reused += 1
            return {name: tokens[name] + added for name, added in self._added.items()}
        after = blocks(tokens)
        self._change = 0.0
        self._added = {name: after[name] - tokens[name] for name in after}
        mx.eval(self._added)
        return after


class StepCaches:
    """A cache for each kind of pass of one denoising stage.

    Args:
        limit: As in ``StepCache``.
        last_sigma: Noise level of the last step.
        agree: A change to that by which all processes decide that share the blocks' work; None: its own.
    """

    def __init__(self, limit: float, last_sigma: float, agree: Callable[[float], float] | None = None):
        self._limit = limit
        self._agree = agree
        self._last_sigma = last_sigma
        self._caches: dict[str, StepCache] = {}
        self._kinds: set[str] = set()
        self._change: float | None = None

    def of(self, kind: str, sigma: float) -> StepCache:
        """The cache of a kind of pass, for a call at ``sigma``."""
        if kind in self._kinds:
            self._kinds.clear()
            self._change = None
        self._kinds.add(kind)
        cache = self._caches.setdefault(kind, StepCache(self._limit, self._agreed))
        cache.is_last = sigma <= self._last_sigma
        return cache

    def _agreed(self, change: float) -> float:
        """The change of a step, which all of its passes have: one exchange for each would hold them up."""
        if self._agree is None:
            return change
        if self._change is None:
            self._change = self._agree(change)
        return self._change

    @property
    def num_calls(self) -> int:
        """Passes so far."""
        return sum(cache.num_calls for cache in self._caches.values())

    @property
    def num_reused(self) -> int:
        """Passes that skipped the blocks."""
        return sum(cache.num_reused for cache in self._caches.values())


def _mean(x: mx.array) -> mx.array:
    return mx.abs(x.astype(mx.float32)).mean()
