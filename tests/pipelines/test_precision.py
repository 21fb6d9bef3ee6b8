"""A film in bfloat16 is bfloat16 all the way: one float32 array on the road would double time and memory behind it."""

import inspect
import sys
from collections import defaultdict

import mlx.core as mx
import mlx.nn as nn
import pytest

import LTX_2_MLX
import LTX_2_MLX.layers.transformer as attention_layer
from LTX_2_MLX.layers.transformer import TimestepModulation
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler

# Latents between the networks and noise levels are float32; these cast what they take.
BORDERS = {LatentUpscaler, TimestepModulation}
STAGES = {
    "text_features",
    "image_encoder",
    "stage_1",
    "latent_upscaler",
    "stage_2",
    "temporal_upscaler",
    "decode",
}


def layer_classes() -> list[type]:
    """Every layer and network of LTX-2, and MLX's own that they are made of."""
    modules = [m for name, m in sys.modules.items() if name.startswith(("LTX_2_MLX.layers.", "LTX_2_MLX.models.ltx."))]
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    own = {c for c in classes if issubclass(c, nn.Module) and c.__module__.startswith("LTX_2_MLX")}
    return [*sorted(own, key=lambda c: c.__name__), nn.Linear, nn.Conv2d, nn.Conv3d]


def arrays_in(value) -> list[mx.array]:
    if isinstance(value, mx.array):
        return [value]
    return [array for part in value for array in arrays_in(part)] if isinstance(value, list | tuple) else []


@pytest.fixture
def watched(monkeypatch):
    """``stage -> {(name, dtype)}`` of everything that layers and MLX's large operations take, while a video is made."""
    seen, now = defaultdict(set), []

    def watch(owner, name, label, arguments):
        original = getattr(owner, name)

        def call(*args, **options):
            result = original(*args, **options)
            for array in arrays_in(args[arguments]) + arrays_in(result):
                seen[now[-1]].add((label, array.dtype))
            return result

        monkeypatch.setattr(owner, name, call)

    for kind in layer_classes():
        if "__call__" in vars(kind):
            watch(kind, "__call__", kind.__name__, slice(0) if kind in BORDERS else slice(1, None))
    for owner, name in ((mx, "conv2d"), (mx, "conv3d"), (attention_layer, "attention")):
        watch(owner, name, name, slice(None))

    class Progress:
        def begin(self, stage):
            now.append(stage)

        def advance(self, stage, done, total): ...

        def end(self, stage):
            now.remove(stage)

        def note(self, text): ...

    return seen, Progress()


def test_nothing_in_a_bfloat16_video_becomes_wider(files, watched):
    seen, progress = watched
    video = LTX_2_MLX.generate(
        "A blue ball",
        weights=files.weights,
        gemma=files.gemma,
        spatial_upscaler_weights=files.spatial,
        temporal_weights=files.temporal,
        distilled_lora=files.lora,
        image=files.picture,
        temporal_upscale=True,
        height=64,
        width=64,
        frames=9,
        steps_stage1=1,
        steps_stage2=1,
        cfg=2.0,
        bf16=True,
        progress=progress,
    )
    assert video.array().shape == (17, 128, 128, 3)
    assert set(seen) >= STAGES
    wide = {
        (stage, name, dtype)
        for stage, uses in seen.items()
        for name, dtype in uses
        if mx.issubdtype(dtype, mx.floating) and dtype != mx.bfloat16
    }
    assert not wide
    # The watch would have seen it: every stage's own work is in 16 bit, by name.
    for stage in STAGES:
        assert any(dtype == mx.bfloat16 for _, dtype in seen[stage]), stage
