import gzip
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import LTX_2_MLX.layers.transformer as attention_layer
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx import transformer
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[2]
MANIFESTS = [
    "ltx-2-19b-dev",
    "ltx-2-19b-distilled",
    "ltx-2-19b-distilled-fp8",
    "ltx-2.3-22b-dev",
    "ltx-2.3-22b-distilled",
    "ltx-2.3-22b-distilled-1.1",
]


def _manifest(name: str) -> Header:
    path = TESTS / f"manifests/{name}.safetensors.transformer.json.gz"
    spec = json.loads(gzip.decompress(path.read_bytes()))
    tensors = {
        key: TensorInfo(shape=tuple(shape), dtype=dtype, num_bytes=0) for key, (shape, dtype) in spec["tensors"].items()
    }
    config = spec["metadata"]["config"]
    return Header(tensors=tensors, config=json.loads(config) if isinstance(config, str) else config)


def _network(case: str, folder: Path) -> Transformer:
    return load(Transformer, Case.open(TESTS / "goldens/ltx2" / case, folder).checkpoint(), dtype=mx.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return _network("transformer_av_2_3", tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def streams():
    return _streams()


def _streams(dtype=mx.float32) -> tuple[StreamInput, StreamInput]:
    random = np.random.default_rng(5)

    def stream(tokens, channels, axes, width, sigma):
        starts = np.abs(random.normal(size=(2, axes, tokens))).astype(np.float32)
        mask = np.ones((2, tokens, 1), np.float32)
        mask[1, :2] = 0
        return StreamInput(
            latent=mx.array(random.normal(size=(2, tokens, channels))).astype(dtype),
            sigma=mx.array(sigma),
            timesteps=mx.array(mask) * mx.array(sigma)[:, None, None],
            positions=mx.array(np.stack([starts, starts + 1], axis=-1)),
            context=mx.array(random.normal(size=(2, 5, width))).astype(dtype),
        )

    return stream(7, 10, 3, 64, [0.8, 0.3]), stream(6, 12, 1, 32, [0.7, 0.4])


def _close(first, second):
    return all(np.allclose(a, b, atol=1e-4) for a, b in zip(first, second, strict=True))


def _sample(stream: StreamInput, number: int) -> StreamInput:
    row = slice(number, number + 1)
    arrays = ("latent", "sigma", "timesteps", "positions", "context")
    return replace(stream, **{name: getattr(stream, name)[row] for name in arrays})


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = _manifest(name)
    landed = []
    for network in (Transformer, TextFeatures):
        shapes = {
            parameter: value.shape
            for parameter, value in tree_flatten(network(network.Config.from_header(header)).parameters())
        }
        names = {published: network.parameter_name(published) for published in header.tensors}
        names = {published: parameter for published, parameter in names.items() if parameter is not None}
        assert sorted(names.values()) == sorted(shapes)
        assert {parameter: header.tensors[published].shape for published, parameter in names.items()} == shapes
        landed += names
    assert sorted(landed) == sorted(header.tensors)


def test_names_of_other_networks_are_left_to_them():
    for published in (
        "vae.decoder.conv_in.conv.weight",
        "model.diffusion_model.video_embeddings_connector.learnable_registers",
        "text_embedding_projection.aggregate_embed.weight",
        "patchify_proj.weight",
    ):
        assert Transformer.parameter_name(published) is None
    unknown = Transformer.parameter_name("model.diffusion_model.transformer_blocks.0.attn3.to_q.weight")
    assert unknown == "blocks.0.attn3.to_q.weight"


def test_header_of_another_network_is_not_recognised():
    assert Transformer.Config.from_header(Header(tensors={"body.0.weight": TensorInfo((1,), "F32", 4)})) is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_layers", 47, "num_layers is 47, but the file has 48"),
        ("num_layers", "48", "num_layers is '48'; expected a positive whole number"),
        ("num_attention_heads", 16, r"patchify_proj the shape \(2048, 128\), the file has \(4096, 128\)"),
        ("attention_head_dim", 64, r"patchify_proj the shape \(2048, 128\), the file has \(4096, 128\)"),
        ("audio_cross_attention_dim", 4096, "audio_cross_attention_dim is 4096; expected the stream's width 2048"),
        ("activation_fn", "silu", "activation_fn is 'silu'; only 'gelu-approximate' is supported"),
        ("rope_type", "spiral", "expected 'split' or 'interleaved'"),
        ("positional_embedding_max_pos", [20, 2048], "expected a list of 3 positive numbers"),
        ("positional_embedding_theta", 10**400, "expected a positive number"),
        ("caption_channels", 10**9, "caption_projection.linear_1"),
        ("apply_gated_attention", 1, "expected true or false"),
        ("norm_eps", None, "expected a positive number"),
        ("sparse_experts", 4, "does not know: sparse_experts"),
    ],
)
def test_config_that_no_network_here_computes_is_refused(field, value, message):
    header = _manifest("ltx-2-19b-dev" if field == "caption_channels" else "ltx-2.3-22b-dev")
    config = {**header.config, "transformer": {**header.config["transformer"], field: value}}
    with pytest.raises(CheckpointError, match=message):
        Transformer.Config.from_header(replace(header, config=config))


def test_streams_with_unequal_numbers_of_heads_are_refused():
    header = _manifest("ltx-2.3-22b-dev")
    sizes = {"num_attention_heads": 16, "attention_head_dim": 256}
    config = {**header.config, "transformer": {**header.config["transformer"], **sizes}}
    with pytest.raises(CheckpointError, match="32 audio heads and 16 video heads"):
        Transformer.Config.from_header(replace(header, config=config))


@pytest.mark.parametrize("case", ["transformer_av_2_5", "text_connector_2_3"])
def test_no_value_in_a_config_ends_in_another_error(tmp_path, case):
    header = Case.open(TESTS / "goldens/ltx2" / case, tmp_path).checkpoint().header
    random = np.random.default_rng(7)
    values = [
        None,
        True,
        -1,
        0,
        3,
        10**12,
        10**400,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "split",
        [],
        [1],
        {},
        [[1]],
        [0, 0, 0],
    ]
    fields = [*header.config["transformer"], "connector_num_layers", "use_prompt_adaln_single", "audio_ff_bias"]
    for _ in range(200):
        section = dict(header.config["transformer"])
        for field in random.choice(fields, size=random.integers(1, 4)):
            section[str(field)] = values[random.integers(len(values))]
        for network in (Transformer, TextFeatures):
            try:
                config = network.Config.from_header(replace(header, config={"transformer": section}))
            except CheckpointError:
                continue
            if config is not None:
                network(config)


def test_file_without_config_is_refused():
    with pytest.raises(CheckpointError, match="no section 'transformer'"):
        Transformer.Config.from_header(replace(_manifest("ltx-2-19b-dev"), config={}))


def test_samples_of_a_batch_do_not_meet(network, streams):
    kinds = [Perturbation(video_self={1}, audio_self={0, 2}), Perturbation(audio_to_video={0}, video_to_audio={1, 2})]
    together = network(*streams, kinds)
    for number in range(2):
        alone = network(*(_sample(stream, number) for stream in streams), [kinds[number]])
        assert _close([velocity[number : number + 1] for velocity in together], alone)


@pytest.mark.parametrize("kind", ["video_self", "audio_self", "audio_to_video", "video_to_audio"])
def test_each_perturbation_changes_its_own_stream_in_the_last_block(network, streams, kind):
    plain = network(*streams)
    perturbed = network(*streams, [Perturbation(**{kind: {2}})] * 2)
    video, audio = (not np.allclose(a, b, atol=1e-4) for a, b in zip(plain, perturbed, strict=True))
    # After the last block's cross-modal attention nothing passes from one stream to the other.
    assert (video, audio) == {
        "video_self": (True, True),
        "audio_self": (True, True),
        "audio_to_video": (True, False),
        "video_to_audio": (False, True),
    }[kind]


def test_no_timesteps_means_sigma_for_every_token(network, streams):
    uniform = [replace(s, timesteps=mx.broadcast_to(s.sigma[:, None, None], s.timesteps.shape)) for s in streams]
    assert _close(network(*uniform), network(*(replace(s, timesteps=None) for s in streams)))


def test_disabled_stream_gives_its_first_tokens_to_the_other_and_no_velocity(network, streams):
    video, audio = streams
    disabled = replace(audio, enabled=False)
    velocity, nothing = network(video, disabled)
    assert nothing is None
    # Its text no longer matters, its latent does.
    other_text = replace(disabled, context=audio.context + 1)
    other_latent = replace(disabled, latent=audio.latent + 1)
    assert mx.array_equal(velocity, network(video, other_text)[0])
    assert not np.allclose(velocity, network(video, other_latent)[0], atol=1e-3)
    assert not np.allclose(velocity, network(video, audio)[0], atol=1e-3)
    assert not np.allclose(velocity, network(video, None)[0], atol=1e-3)


def test_sigma_of_the_other_stream_reaches_the_cross_modal_gate(tmp_path):
    # Without text modulation a stream's own sigma has no other use beside its timesteps.
    network = _network("transformer_av_2_0", tmp_path)
    video, audio = (replace(stream, context=mx.zeros((2, 5, 24))) for stream in _streams())
    quieter = replace(audio, sigma=audio.sigma * 0.5)
    plain, changed = network(video, audio), network(video, quieter)
    assert not np.allclose(plain[0], changed[0], atol=1e-3)
    without = [Perturbation(audio_to_video=range(3))] * 2
    assert _close(network(video, audio, without), network(video, quieter, without))


def test_weights_of_one_change_nothing_and_zero_excludes(network, streams):
    video, audio = streams
    plain = network(video, audio)
    assert _close(plain, network(replace(video, attention_mask=mx.ones((2, 7, 7))), audio))
    # With its own tokens alone, a video without the last ones attends as if they were not there.
    weights = mx.ones((2, 7, 7))
    weights[:, :5, 5:] = 0
    fewer = replace(
        video, latent=video.latent[:, :5], timesteps=video.timesteps[:, :5], positions=video.positions[:, :, :5]
    )
    masked = network(replace(video, attention_mask=weights), None)[0]
    assert np.allclose(masked[:, :5], network(fewer, None)[0], atol=1e-4)


def test_row_of_attention_weights_that_are_all_zero_stays_finite(network, streams):
    video, audio = streams
    weights = mx.ones((2, 7, 7))
    weights[0, 3] = 0
    assert mx.all(mx.isfinite(network(replace(video, attention_mask=weights), audio)[0])).item()


def test_blocks_from_elsewhere_give_the_same_bits(network, streams):
    blocks = iter(network.blocks)
    streamed = network(*streams, blocks=blocks)
    assert all(mx.array_equal(a, b) for a, b in zip(network(*streams), streamed, strict=True))
    assert next(blocks, None) is None


def test_evaluation_at_block_boundaries_changes_no_bit(network, streams):
    stepped = network(*streams, evaluate_blocks=True)
    assert all(mx.array_equal(a, b) for a, b in zip(network(*streams), stepped, strict=True))


def test_context_modulated_by_a_table_alone_equals_prompt_rows_of_zero(network, streams, tmp_path):
    silent = _network("transformer_av_2_3", tmp_path)
    for ends in (silent.video, silent.audio):
        ends.prompt_adaln.linear.weight = mx.zeros_like(ends.prompt_adaln.linear.weight)
        ends.prompt_adaln.linear.bias = mx.zeros_like(ends.prompt_adaln.linear.bias)
    static = Transformer(replace(network.config, prompt_modulation=False))
    weights = dict(tree_flatten(network.parameters()))
    static.load_weights([(name, value) for name, value in weights.items() if "prompt_adaln" not in name])
    assert all(mx.array_equal(a, b) for a, b in zip(static(*streams), silent(*streams), strict=True))
    assert not np.allclose(static(*streams)[0], network(*streams)[0], atol=1e-3)


def test_gradients_reach_every_parameter_inside_a_compiled_step(tmp_path):
    network = _network("transformer_av_2_3", tmp_path)
    network.unfreeze()
    # Positions stay outside of what is compiled: their tables come from NumPy.
    video, audio = (replace(stream, timesteps=None) for stream in _streams())

    def loss(network, noisy, sigma):
        velocities = network(replace(video, latent=noisy, sigma=sigma), replace(audio, sigma=sigma))
        return sum(mx.mean(velocity**2) for velocity in velocities)

    def step(noisy, sigma):
        return nn.value_and_grad(network, loss)(network, noisy, sigma)[1]

    gradients = mx.compile(step, inputs=[network.state])(video.latent, video.sigma)
    still = [name for name, gradient in tree_flatten(gradients) if not mx.any(gradient != 0).item()]
    assert still == [] and len(tree_flatten(gradients)) == len(tree_flatten(network.parameters()))


def test_projected_context_stands_for_the_context(tmp_path):
    network = _network("transformer_av_2_0", tmp_path)
    case = Case.open(TESTS / "goldens/ltx2/transformer_av_2_0", tmp_path)
    streams = [
        StreamInput(
            **{name: mx.array(value) for name, value in case.inputs(f"{stream}.").items() if name != "attention_mask"}
        )
        for stream in ("video", "audio")
    ]
    contexts = [
        network[name].project_context(each.context) for name, each in zip(("video", "audio"), streams, strict=True)
    ]
    projected = [replace(s, context=c, context_projected=True) for s, c in zip(streams, contexts, strict=True)]
    assert all(mx.array_equal(a, b) for a, b in zip(network(*streams), network(*projected), strict=True))


def test_keyframe_embedding_reaches_marked_tokens_only(tmp_path):
    network = _network("transformer_av_2_5", tmp_path)
    video, _ = _streams()
    mark = mx.zeros((2, 7, 1))
    mark[:, 2] = 1
    difference = network.video.embed(video.latent, mark) - network.video.embed(video.latent)
    assert np.allclose(difference[:, 2], mx.broadcast_to(network.video.keyframe_embedding, (2, 54)), atol=1e-5)
    difference[:, 2] = 0
    assert not mx.any(difference).item()


def test_nothing_in_a_bfloat16_network_becomes_float32(tmp_path, monkeypatch):
    network = _network("transformer_av_2_3", tmp_path)
    network.set_dtype(mx.bfloat16)
    # As in files that keep their tables in float32.
    network.blocks[0].video.scale_shift_table = network.blocks[0].video.scale_shift_table.astype(mx.float32)
    dtypes = []

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            result = original(*args, **kwargs)
            arrays = [a for a in (*args, *kwargs.values(), result) if isinstance(a, mx.array)]
            dtypes.extend((name, a.dtype) for a in arrays if a.dtype != mx.bool_)
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(nn.Linear, "__call__")
    watch(mx.fast, "rms_norm")
    watch(mx.fast, "layer_norm")
    # On a CPU its scores are float32 inside.
    watch(attention_layer, "attention")
    watch(transformer, "modulate")
    watch(transformer, "gated_add")
    video, audio = _streams()
    weights = mx.full((2, 7, 7), 0.5)
    kinds = [Perturbation(video_self={0}, audio_to_video={0}), Perturbation()]
    velocities = network(replace(video, attention_mask=weights, context_mask=mx.ones((2, 5))), audio, kinds)
    assert [velocity.dtype for velocity in velocities] == [mx.bfloat16] * 2
    assert len(dtypes) > 100
    assert {name for name, dtype in dtypes if dtype != mx.bfloat16} == set()
