"""One step's work shared among the processes of a run: the passes of guidance, or the tokens of the video."""

from collections.abc import Callable, Collection, Mapping, Sequence

import mlx.core as mx

from LTX_2_MLX.diffusion.guidance import Pass, Predict
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays
from LTX_2_MLX.ops.collective import Group, TokenShare
from LTX_2_MLX.shapes import StreamName


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


def share_tokens(predict: Predict, group: Group) -> Predict:
    """Every process computes a run of the video's tokens, and all of the audio's."""

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        share = TokenShare(group, state["video"].num_tokens)
        estimates = predict(state | {"video": shared_stream(state["video"], share)}, sigma, passes, computed)
        whole: dict[Pass, StreamArrays] = {}
        for kind, streams in estimates.items():
            whole[kind] = dict(streams)
            if "video" in streams:
                whole[kind]["video"] = share.gather(streams["video"])
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


def share_either(predict: Predict, group: Group) -> Predict:
    """Guided steps are shared by their passes, the others by the video's tokens."""
    by_passes = share_passes(predict, group)
    by_tokens = share_tokens(predict, group)

    def shared(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> Mapping[Pass, StreamArrays]:
        return (by_passes if len(passes) > 1 else by_tokens)(state, sigma, passes, computed)

    return shared


# By the name of the mode.
SHARED: dict[str, Callable[[Predict, Group], Predict]] = {
    "auto": share_either,
    "blocks": share_blocks,
    "guidance": share_passes,
    "sequence": share_tokens,
}


def shared_stream(stream: LatentState, share: TokenShare) -> LatentState:
    """The tokens of this process. Their attention weights to the tokens of all processes stay whole."""
    own = share.tokens
    mask = stream.attention_mask
    keyframes = stream.keyframe_mask
    return stream.replace(
        latent=stream.latent[:, own],
        clean_latent=stream.clean_latent[:, own],
        denoise_mask=stream.denoise_mask[:, own],
        positions=stream.positions[:, :, own],
        attention_mask=mask if mask is None or mask.shape[1] == 1 else mask[:, own],
        keyframe_mask=None if keyframes is None else keyframes[:, own],
        share=share,
    )


def _zeros(shapes: Mapping[StreamName, tuple[int, ...]]) -> StreamArrays:
    return {name: mx.zeros(shape) for name, shape in shapes.items()}
