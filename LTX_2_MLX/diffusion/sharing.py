"""One step's work shared among the processes of a run: the passes of guidance, or the tokens of the video."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from LTX_2_MLX.diffusion.sampler import Pass, Predict
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays
from LTX_2_MLX.ops.collective import Group, TokenShare, share_of
from LTX_2_MLX.shapes import StreamName


class TokenWidths(NamedTuple):
    """Values of a token in the operations on them: matrix products, scores of the attention to a text, activations."""

    products: Collection[int]
    activations: Collection[int]


NO_WIDTHS = TokenWidths((), ())
# Whether a step of so many passes is shared by the tokens.
ByTokens = Callable[[State, int], bool]


def share_passes(predict: Predict, group: Group) -> Predict:
    """Every process computes some of the passes and gets the estimates of the others.

    Each pass is computed as one process would, so that the estimates have the same bits.
    """

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        own = predict(state, sigma, passes[group.rank :: group.size], computed)
        shapes = {name: state[name].latent.shape for name in state if name in computed}
        estimates: dict[Pass, StreamArrays] = {}
        for start in range(0, len(passes), group.size):
            turn = passes[start : start + group.size]
            mine = own[turn[group.rank]] if group.rank < len(turn) else _zeros(shapes)
            gathered = {name: group.gather(mine[name]) for name in shapes}
            for rank, kind in enumerate(turn):
                estimates[kind] = {name: gathered[name][rank] for name in shapes}
        mx.eval(estimates)
        group.check_order()
        return {kind: estimates[kind] for kind in passes}

    return shared


def share_tokens(predict: Predict, group: Group, widths: TokenWidths = NO_WIDTHS) -> Predict:
    """Every process computes a run of the video's tokens, and all of the audio's.

    On a CPU shares of few tokens are longer than they need be, so that their products are rounded as one process's.

    Args:
        predict: The transformer.
        group: The processes.
        widths: Of its operations on the tokens.
    """

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        share = token_share(group, state, widths)
        estimates = predict(state | {"video": shared_stream(state["video"], share)}, sigma, passes, computed)
        whole: dict[Pass, StreamArrays] = {}
        for kind, streams in estimates.items():
            whole[kind] = {}
            if "video" in streams:
                whole[kind]["video"] = share.gather(streams["video"])
            if "audio" in streams:
                # Machines of another kind may round differently.
                whole[kind]["audio"] = group.gather(streams["audio"])[0]
        mx.eval(whole)
        group.check_order()
        return whole

    return shared


def share_blocks(predict: Predict, group: Group) -> Predict:
    """Every process computes its run of the network's blocks, and the last one's estimates are those of all.

    The first process begins with a pass when it has sent the one before it on, so that all of them work at once.
    """

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        estimates: dict[Pass, StreamArrays] = {}
        for kind, streams in predict(state, sigma, passes, computed).items():
            estimates[kind] = {name: group.gather(streams[name])[group.size - 1] for name in sorted(streams)}
            mx.eval(estimates[kind])
        group.check_order()
        return estimates

    return shared


def share_either(predict: Predict, group: Group, widths: TokenWidths, by_tokens: ByTokens) -> Predict:
    """Steps are shared by the video's tokens where ``by_tokens`` says so, the others by their passes."""
    ways = {True: share_tokens(predict, group, widths), False: share_passes(predict, group)}

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        return ways[by_tokens(state, len(passes))](state, sigma, passes, computed)

    return shared


def unguided(state: State, num_passes: int) -> bool:
    """Whether a step has one pass."""
    return num_passes == 1


def shared_by(
    mode: str, predict: Predict, group: Group, widths: TokenWidths = NO_WIDTHS, by_tokens: ByTokens = unguided
) -> Predict:
    """``predict`` shared among processes.

    Args:
        mode: ``guidance``, ``sequence``, ``blocks``, or ``auto`` for the one or the other of the first two.
        predict: The transformer.
        group: The processes.
        widths: Of its operations on the video's tokens.
        by_tokens: Which steps ``auto`` shares by the tokens.
    """
    if mode == "guidance":
        return share_passes(predict, group)
    if mode == "blocks":
        return share_blocks(predict, group)
    if mode == "sequence":
        return share_tokens(predict, group, widths)
    return share_either(predict, group, widths, by_tokens)


def token_share(group: Group, state: State, widths: TokenWidths) -> TokenShare:
    """The share of the video's tokens, which attend to those of every stream."""
    products = [*widths.products, *widths.activations, *(stream.num_tokens for stream in state.values())]
    return share_of(group, state["video"].num_tokens, products, widths.activations)


def shared_stream(stream: LatentState, share: TokenShare) -> LatentState:
    """The tokens of this process. Their attention weights to the tokens of all processes stay whole."""
    own = share.tokens
    mask = stream.attention_mask
    keyframes = stream.keyframe_mask
    return replace(
        stream,
        latent=stream.latent[:, own],
        clean_latent=stream.clean_latent[:, own],
        denoise_mask=stream.denoise_mask[:, own],
        positions=stream.positions[:, :, own],
        attention_mask=mask if mask is None or mask.shape[1] == 1 else mask[:, own],
        keyframe_mask=None if keyframes is None else keyframes[:, own],
        share=share,
        mask_of_all=stream.denoise_mask,
    )


def _zeros(shapes: Mapping[StreamName, tuple[int, ...]]) -> StreamArrays:
    return {name: mx.zeros(shape) for name, shape in shapes.items()}
