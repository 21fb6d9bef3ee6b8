"""LTX-2's transformer block and video decoder in torch, to hold ours against: the plain form, as anyone would write it.

Weights come under our parameters' names, convolutions in torch's axis order; video alone, with the flags of 2.0.
"""


def transformer_block(weights: dict, heads: int, tokens, context, rows, cos, sin):
    """Tokens ``(B, N, D)`` to tokens; ``rows`` ``(6, D)``, rotary tables ``(N, heads, half a head)``."""
    import torch
    import torch.nn.functional as functional

    def linear(x, name: str):
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, weight=None):
        return functional.rms_norm(x, x.shape[-1:], weight, 1e-6)

    def turned(x):
        first, second = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def attention(x, heard, name: str, rotary: bool):
        queries = norm(linear(x, f"{name}.to_q"), weights[f"{name}.q_norm.weight"])
        keys = norm(linear(heard, f"{name}.to_k"), weights[f"{name}.k_norm.weight"])
        if rotary:
            queries, keys = turned(queries), turned(keys)
        values = split(linear(heard, f"{name}.to_v"))
        result = functional.scaled_dot_product_attention(split(queries), split(keys), values)
        return linear(result.transpose(1, 2).flatten(-2), f"{name}.to_out")

    rows = rows + weights["video.scale_shift_table"]
    seen = norm(tokens) * (1 + rows[1]) + rows[0]
    tokens = tokens + attention(seen, seen, "video.self_attention", rotary=True) * rows[2]
    tokens = tokens + attention(norm(tokens), context, "video.text_attention", rotary=False)
    hidden = linear(norm(tokens) * (1 + rows[4]) + rows[3], "video.feed_forward.project_in")
    hidden = functional.gelu(hidden, approximate="tanh")
    return tokens + linear(hidden, "video.feed_forward.project_out") * rows[5]


def video_decoder(weights: dict, strides: list, patch: int, latent):
    """Latent ``(B, C, T, H, W)`` to frames ``(B, 3, T, H, W)``; ``strides`` of the blocks, None for residual groups."""
    import torch.nn.functional as functional

    def conv(x, name: str):
        x = functional.pad(functional.pad(x, (1, 1, 1, 1, 0, 0), mode="reflect"), (0, 0, 0, 0, 1, 1), mode="replicate")
        return functional.conv3d(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"])

    def activate(x):
        return functional.silu(x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt())

    def spread(x, stride, *, width_first: bool = False):
        time, height, width = stride
        x = x.unflatten(1, (-1, time, width, height) if width_first else (-1, time, height, width))
        x = x.permute(0, 1, 5, 2, 6, 4, 7, 3) if width_first else x.permute(0, 1, 5, 2, 6, 3, 7, 4)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def statistic(name: str):
        return weights[f"per_channel_statistics.{name}"][:, None, None, None]

    x = conv(latent * statistic("std") + statistic("mean"), "conv_in")
    for number, stride in enumerate(strides):
        name, block = f"up_blocks.{number}", 0
        while stride is None and f"{name}.res_blocks.{block}.conv1.conv.weight" in weights:
            part = f"{name}.res_blocks.{block}"
            x, block = x + conv(activate(conv(activate(x), f"{part}.conv1")), f"{part}.conv2"), block + 1
        if stride is not None:
            grown, shortcut = spread(conv(x, f"{name}.conv"), stride), spread(x, stride)
            grown = grown + shortcut.repeat(1, grown.shape[1] // shortcut.shape[1], 1, 1, 1)
            x = grown[:, :, stride[0] - 1 :]
    return spread(conv(activate(x), "conv_out"), (1, patch, patch), width_first=True)
