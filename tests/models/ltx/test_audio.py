"""The audio VAE and the vocoders: published names, configs, decoding in pieces. Golden cases hold their values."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.checkpoints.load import AXIS_ORDERS
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.audio_decoding import decode_audio
from LTX_2_MLX.models.ltx.audio_encoding import encode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioDecoderConfig, AudioEncoder, AudioEncoderConfig
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.models.ltx.vocoder_config import BandwidthExtensionConfig, GeneratorConfig, VocoderConfig
from LTX_2_MLX.ops.mel import MelSettings
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[2]
GOLDENS = TESTS / "goldens/ltx2"
MANIFESTS = {
    "ltx-2-19b-dev.safetensors.vae": Vocoder,
    "ltx-2-19b-distilled.safetensors.vae": Vocoder,
    "ltx-2.3-22b-dev.safetensors.vae": BandwidthExtensionVocoder,
    "ltx-2.3-22b-distilled.safetensors.vae": BandwidthExtensionVocoder,
    "ltx-2.3-22b-distilled-1.1.safetensors.vae": BandwidthExtensionVocoder,
    "ltx-2.5-audio-vae-bf16.safetensors": BandwidthExtensionVocoder,
}


def manifest(name: str) -> Header:
    spec = json.loads(gzip.decompress((TESTS / f"manifests/{name}.json.gz").read_bytes()))
    config = spec["metadata"]["config"]
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    return Header(tensors=tensors, config=json.loads(config) if isinstance(config, str) else config)


def with_field(header: Header, path: str, value: object) -> Header:
    """The header with one field of its config replaced; ``path`` with dots."""
    config = json.loads(json.dumps(header.config))
    *sections, field = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[field] = value
    return replace(header, config=config)


def landed(network_class: type, header: Header) -> set[str]:
    """Published tensors of the network; fails unless each is exactly one parameter of the same shape."""
    network = network_class(network_class.Config.from_header(header))
    shapes = {}
    for path, module in network.named_modules():
        for name, value in module.parameters().items():
            if isinstance(value, mx.array):
                order = AXIS_ORDERS.get(type(module), range(value.ndim)) if name == "weight" else range(value.ndim)
                shapes[f"{path}.{name}".removeprefix(".")] = tuple(
                    value.shape[list(order).index(axis)] for axis in range(value.ndim)
                )
    names = {name: network_class.parameter_name(name) for name in header.tensors}
    names = {name: parameter for name, parameter in names.items() if parameter is not None}
    assert sorted(names.values()) == sorted(shapes) == sorted(name for name, _ in tree_flatten(network.parameters()))
    assert {parameter: header.tensors[name].shape for name, parameter in names.items()} == shapes
    return set(names)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = manifest(name)
    other = ({Vocoder, BandwidthExtensionVocoder} - {MANIFESTS[name]}).pop()
    assert other.Config.from_header(header) is None
    tensors = landed(AudioEncoder, header) | landed(AudioDecoder, header) | landed(MANIFESTS[name], header)
    assert tensors == {tensor for tensor in header.tensors if tensor.startswith(("audio_vae.", "vocoder."))}


def test_published_rates_and_sizes():
    header = manifest("ltx-2.3-22b-dev.safetensors.vae")
    vocoder = BandwidthExtensionVocoder(BandwidthExtensionVocoder.Config.from_header(header))
    assert (vocoder.sample_rate, vocoder.samples_per_frame) == (48000, 480)
    assert vocoder.config.extension.final_activation == "none"
    assert vocoder.config.generator.final_activation == "clamp"
    first = manifest("ltx-2-19b-dev.safetensors.vae")
    older = Vocoder(Vocoder.Config.from_header(first))
    assert (older.sample_rate, older.samples_per_frame) == (24000, 240)
    assert older.config.generator.final_activation == "tanh"
    config = AudioDecoder.Config.from_header(first)
    assert (config.compression, config.latent_bins, config.latent_channels) == (4, 16, 8)


_DDCONFIG = "audio_vae.model.params.ddconfig"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (f"{_DDCONFIG}.attn_resolutions", [32], "attention"),
        (f"{_DDCONFIG}.ch", 64, "product has to be ch"),
        (f"{_DDCONFIG}.num_res_blocks", 10**9, "belongs to another file"),
        (f"{_DDCONFIG}.ch_mult", [1, 2, 3], "belongs to another file"),
        (f"{_DDCONFIG}.norm_type", "group", "only 'pixel' is supported"),
        (f"{_DDCONFIG}.window", 3, "does not know: window"),
        ("audio_vae.preprocessing.stft.win_length", 512, "win_length and filter_length"),
        ("audio_vae.model.params.ddconfig", None, "no section 'audio_vae.model.params.ddconfig'"),
    ],
)
def test_audio_vae_config_that_no_network_here_computes_is_refused(field, value, message):
    header = with_field(manifest("ltx-2-19b-dev.safetensors.vae"), field, value)
    for network in (AudioEncoder, AudioDecoder):
        with pytest.raises(CheckpointError, match=message):
            network.Config.from_header(header)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocoder.vocoder.activation", "snake", "expected 'snakebeta'"),
        ("vocoder.vocoder.resblock", "2", "expected '1' or 'AMP1'"),
        ("vocoder.vocoder.upsample_initial_channel", 512, "the file has 1536"),
        ("vocoder.vocoder.upsample_rates", [5, 2, 2, 2, 2, 3], "exceed their rates by an even number"),
        ("vocoder.bwe.hop_length", 60, "expected a divisor"),
        ("vocoder.bwe.output_sampling_rate", 44100, "expected 44100 Hz"),
        ("vocoder.bwe.resblock_dilation_sizes", [[1, 3, 5]], "one list for each kernel"),
        ("vocoder.bwe.stereo", False, "only True is supported"),
    ],
)
def test_vocoder_config_that_no_network_here_computes_is_refused(field, value, message):
    header = with_field(manifest("ltx-2.3-22b-dev.safetensors.vae"), field, value)
    with pytest.raises(CheckpointError, match=message):
        BandwidthExtensionVocoder.Config.from_header(header)


def test_networks_are_listed_by_their_contents(tmp_path):
    decode = Case.open(GOLDENS / "audio_decode_2_0/latent_to_wave", tmp_path)
    extended = Case.open(GOLDENS / "vocoder_2_3/mel_to_wave", tmp_path)
    for case, names in ((decode, {"AudioDecoder", "Vocoder"}), (extended, {"BandwidthExtensionVocoder"})):
        contents = inspect(case.write_checkpoint())
        assert {network.name for network in contents.networks} == names and not contents.others
        assert all(network.problem is None for network in contents.networks)


@pytest.fixture(scope="module")
def decoder():
    """A small decoder; each level has the published layers, but fewer blocks and channels."""
    mx.random.seed(1)
    mel = MelSettings(num_bins=64)
    return AudioDecoder(
        AudioDecoderConfig(
            channels=16, channel_multipliers=(1, 1, 1), num_res_blocks=1, audio_channels=2, latent_channels=1, mel=mel
        )
    )


@pytest.fixture(scope="module", params=[Vocoder, BandwidthExtensionVocoder])
def vocoder(request):
    """Small vocoders of both kinds."""
    mx.random.seed(2)
    common = {"in_channels": 128, "initial_channels": 8, "block_kernels": (3, 7), "block_dilations": ((1, 3), (1, 5))}
    rates = {"upsample_rates": (10, 4, 4), "upsample_kernels": (12, 8, 6)}
    if request.param is Vocoder:
        plain = {"antialiased": False, "final_bias": True, "final_activation": "tanh"}
        return with_weights(Vocoder(VocoderConfig(GeneratorConfig(**common, **rates, **plain), sample_rate=24000)))
    extended = {"antialiased": True, "final_bias": False}
    wide = {"upsample_rates": (10, 6, 4), "upsample_kernels": (12, 8, 6)}
    config = BandwidthExtensionConfig(
        generator=GeneratorConfig(**common, **rates, **extended, final_activation="clamp"),
        extension=GeneratorConfig(**common, **wide, **extended, final_activation="none"),
        fft_length=512,
        hop_length=80,
        num_bins=64,
        low_rate=16000,
        sample_rate=48000,
    )
    return with_weights(BandwidthExtensionVocoder(config))


def with_weights(network):
    """The network with weights that keep values near one; filters and bases come from the file, too."""
    random = np.random.default_rng(5)
    weights = []
    for name, value in tree_flatten(network.parameters()):
        scale = 0.1 if value.ndim == 1 else 0.7 * (value.size / value.shape[0]) ** -0.5
        weights.append((name, mx.array(random.normal(size=value.shape, scale=scale).astype(np.float32))))
    network.load_weights(weights)
    return network


def random_latent(num_frames: int) -> mx.array:
    return mx.array(np.random.default_rng(6).normal(size=(1, num_frames, 16, 1)).astype(np.float32))


def test_decoding_in_pieces_equals_decoding_the_whole(decoder, vocoder):
    latent = random_latent(81)
    whole = vocoder(decoder(latent))
    pieces = list(decode_audio(decoder, vocoder, latent, piece_frames=20))
    assert len(pieces) == 5
    joined = mx.concatenate(pieces, axis=1)
    assert joined.shape == whole.shape == (1, (4 * 81 - 3) * vocoder.samples_per_frame, 2)
    assert mx.std(whole).item() > 1e-2
    assert mx.abs(joined - whole).max().item() < 1e-5


@pytest.mark.parametrize("num_samples", [16_000, 16_641])
def test_encoding_in_pieces_equals_encoding_the_whole(num_samples):
    mx.random.seed(3)
    config = AudioEncoderConfig(
        channels=16,
        channel_multipliers=(1, 1, 1),
        num_res_blocks=1,
        audio_channels=2,
        latent_channels=1,
        mel=MelSettings(),
    )
    encoder = AudioEncoder(config)
    waveform = np.random.default_rng(8).normal(0, 0.2, (1, num_samples, 2)).astype(np.float32)
    whole = encoder.encode(waveform, 16_000)
    for piece_frames in (1, 7):
        pieces = list(encode_audio(encoder, waveform, 16_000, piece_frames=piece_frames))
        assert len(pieces) == -(-whole.shape[1] // piece_frames) and mx.std(whole).item() > 1e-2
        assert mx.abs(mx.concatenate(pieces, axis=1) - whole).max().item() < 1e-5


def test_a_decoded_frame_depends_on_nothing_before_its_context(decoder):
    context = decoder.config.decoder_context
    latent = random_latent(context + 3)
    changed = mx.concatenate([latent[:, :1] + 5, latent[:, 1:]], axis=1)
    last = 4 * (context + 2) - 3
    assert mx.allclose(decoder(latent)[:, last:], decoder(changed)[:, last:], atol=1e-6)
    assert not mx.allclose(decoder(latent)[:, :4], decoder(changed)[:, :4], atol=1e-3)


def test_samples_depend_on_nothing_beyond_their_context(vocoder):
    random = np.random.default_rng(7)
    mel = mx.array(random.normal(size=(1, 2 * vocoder.context + 3, 64, 2)).astype(np.float32))
    changed = mx.array(mel)
    changed[:, :1] += 5
    changed[:, -1:] += 5
    middle = slice((vocoder.context + 1) * vocoder.samples_per_frame, (vocoder.context + 2) * vocoder.samples_per_frame)
    first, second = vocoder(mel), vocoder(changed)
    assert mx.allclose(first[:, middle], second[:, middle], atol=1e-6)
    assert not mx.allclose(first, second, atol=1e-3)


def test_sound_of_one_latent_frame_is_one_mel_frame(decoder, vocoder):
    [waveform] = decode_audio(decoder, vocoder, random_latent(1))
    assert waveform.shape == (1, vocoder.samples_per_frame, 2)


def test_memory_of_decoding_does_not_grow_with_the_length(decoder, vocoder):
    def peak(num_frames: int) -> int:
        latent = random_latent(num_frames)
        mx.eval(latent)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        for _ in decode_audio(decoder, vocoder, latent, piece_frames=15):
            pass
        return mx.get_peak_memory() - before

    assert peak(180) < 1.1 * peak(100)
