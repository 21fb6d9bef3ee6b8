"""Gemma 3 from the single files of ComfyUI: a SentencePiece model in the file, and no config."""

import gzip
import io
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import sentencepiece
import tiny_checkpoints
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.checkpoints import gemma3_shapes
from LTX_2_MLX.checkpoints.chat import chat_form, question
from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig, encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.quantization import decode_e4m3
from LTX_2_MLX.cli.generate import main
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo

MANIFEST = Path(__file__).parents[1] / "manifests" / "gemma-3-12b-it.json.gz"
SENTENCES = ["a blue ball bouncing on green grass", "The red bird sings,", "Waves on 3 sandy beaches: gulls.\n\n- so"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
SYMBOLS = [*TURNS, "\n", "\n\n", "▁▁", "▁▁▁"]
PROMPTS = [
    "a blue ball bouncing on green grass",
    "  A red  bird,   and gulls ",
    "Wellen am Strand: schön, 海 🐦!\tso\n\n\n- 33 gulls",
    "a<bos>b<eos> <pad>c<unk><0x41>▁▁<bo",
    "<bos>",
    "",
    "<start_of_turn>user\nsing<end_of_turn>\n<start_of_turn>model\n",
]
LONG = "the red 🐦 bird sings. " * 100


def trained(**settings) -> bytes:
    """A SentencePiece model with the settings of Gemma's."""
    names = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
    settings = {"add_dummy_prefix": False, "remove_extra_whitespaces": False} | settings
    settings = {f"{name}_piece": f"<{name}>" for name in names} | settings
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 9), model_writer=model, vocab_size=380, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", split_digits=True, hard_vocab_limit=False,
        user_defined_symbols=SYMBOLS, minloglevel=2, num_threads=1, allow_whitespace_only_pieces=True,
        **{f"{name}_id": number for name, number in names.items()},
        **settings,
    )  # fmt: skip
    return model.getvalue()


PIECES = trained()


def as_tokenizer_json(pieces: bytes) -> bytes:
    """The tokenizer of the same vocabulary in the form of the published ``tokenizer.json``."""
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    vocab = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    pairs = []
    for piece, number in vocab.items():
        for middle in range(1, len(piece)):
            if piece[:middle] in vocab and piece[middle:] in vocab:
                pairs.append((-model.get_score(number), number, (piece[:middle], piece[middle:])))
    merges = [pair for *_, pair in sorted(pairs)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *TURNS]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in SYMBOLS if name not in special])
    return tokenizer.to_str().encode()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small Gemma as published, with the tokenizer that is the SentencePiece model's."""
    folder = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    (folder / "tokenizer.json").write_bytes(as_tokenizer_json(PIECES))
    (folder / "tokenizer_config.json").unlink()
    return folder


def as_file(folder: Path, path: Path, *, scaled: bool = False, pieces: bytes = PIECES) -> Path:
    """The same weights in one file under ComfyUI's names; ``scaled``: one of them in 8-bit floats, in both."""
    path.parent.mkdir()
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if name.startswith("language_model.")}
    file = {name.replace("language_model.model.", "model."): value for name, value in tensors.items()}
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    if scaled:
        codes = np.random.default_rng(3).integers(0, 0x70, tensors[name].shape).astype(np.uint8)
        tensors[name] = np.array(decode_e4m3(mx.array(codes))) * np.float32(0.0625)
        save_file(tensors, folder / "model.safetensors")
        own = name.removeprefix("language_model.")
        file[own] = codes
        file[own.replace("weight", "scale_weight")] = np.float32([0.0625])
        file["scaled_fp8"] = np.zeros(2, np.uint8)
    file["spiece_model"] = np.frombuffer(pieces, np.uint8).copy()
    file["vision_model.embeddings.position_embedding.weight"] = np.zeros((2, 2), np.float32)
    save_file(file, path)
    if scaled:
        # NumPy has no 8-bit floats: the codes' dtype is named in the header.
        _rename_dtype(path, (name.removeprefix("language_model."), "scaled_fp8"))
    return path


def _rename_dtype(path: Path, names: tuple[str, ...]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name in names:
        header[name]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.fixture
def as_12b(folder, monkeypatch):
    """Takes the small model's sizes for those of the published 12B."""
    monkeypatch.setattr(gemma3_shapes, "TEXT_CONFIG", json.loads((folder / "config.json").read_text())["text_config"])


def test_ids_are_those_of_the_published_form():
    ours = GemmaTokenizer(PIECES, b"{}", Path("file"), are_pieces=True)
    theirs = GemmaTokenizer(as_tokenizer_json(PIECES), b"{}", Path("tokenizer.json"))
    # Cut off at every byte of a character in turn.
    for prompt in [*PROMPTS, *(LONG[start:] for start in range(9))]:
        assert ours.ids(prompt) == theirs.ids(prompt), prompt
        assert ours.cut_off(prompt) == theirs.cut_off(prompt), prompt
        assert ours.text(ours.ids(prompt)) == theirs.text(theirs.ids(prompt)), prompt
    for mine, other in zip(ours([*PROMPTS, LONG], 64), theirs([*PROMPTS, LONG], 64), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert ours.max_length == theirs.max_length == 1024 and ours.cut_off(LONG)[1]
    # A network may yield bytes that are no text, and ids that no token has.
    written = np.random.default_rng(5).integers(0, 500, 2000).tolist()
    assert ours.text(written) == theirs.text(written)
    names = ("<end_of_turn>", "<pad>", "bl", "<nothing>")
    assert [ours.id_of(name) for name in names] == [theirs.id_of(name) for name in names]


@pytest.mark.parametrize("scaled", [False, True])
def test_states_and_questions_are_those_of_the_published_folder(folder, tmp_path, as_12b, scaled):
    file = as_file(folder, tmp_path / "comfy" / "gemma_3_12B_it.safetensors", scaled=scaled)
    ours, theirs = load_gemma(file, dtype=mx.float32), load_gemma(folder, dtype=mx.float32)
    assert ours.network.config == theirs.network.config
    got, expected = (encode_prompts(each, PROMPTS, max_length=40) for each in (ours, theirs))
    assert all(bool((mine == other).all()) for mine, other in zip(got[0], expected[0], strict=True))
    form = chat_form(file)
    asked = [question(form, each.tokenizer, "Rewrite it.", "a ball") for each in (ours, theirs)]
    assert asked[0] == asked[1] and asked[0].count(ours.tokenizer.id_of("<start_of_turn>")) == 2
    listing = inspect(file)
    assert [(each.name, each.problem) for each in listing.networks] == [("Gemma", None)]
    notes = {each.name: each.note for each in listing.others}
    assert notes["spiece_model"] == "tokenizer of the text encoder"


def run(*words):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words])


def test_rewritten_prompt_and_video_are_those_of_the_published_folder(folder, tmp_path, as_12b):
    file = as_file(folder, tmp_path / "comfy" / "gemma_3_12B_it.safetensors")
    weights = tiny_checkpoints.write_weights(tmp_path / "ltx-2-19b-distilled.safetensors")
    given = ("a blue ball", "--weights", weights, "--pipeline", "one-stage", "--steps", 1, "--cfg", 1, "--no-audio")
    given += ("--height", 64, "--width", 64, "--frames", 9, "--allow-blank")
    given += ("--enhance-prompt", "--seed", 3)
    videos, prompts = [], []
    for name, gemma in (("folder", folder), ("file", file)):
        result = run(*given, "--gemma", gemma, "-o", tmp_path / f"{name}.webm")
        assert result.exit_code == 0, result.stderr
        prompts.append(result.stderr.partition("Prompt: ")[2].partition("text_encoder")[0])
        videos.append(read_video(tmp_path / f"{name}.webm").array())
    np.testing.assert_array_equal(*videos)
    assert prompts[0] == prompts[1] != ""


def stored_header(**changed) -> Header:
    """The published tensors under ComfyUI's names."""
    with gzip.open(MANIFEST) as file:
        tensors = json.load(file)["tensors"]
    infos = {}
    for name, (shape, dtype) in tensors.items():
        infos[name.replace("language_model.model.", "model.")] = TensorInfo(tuple(shape), dtype, 2)
    return Header(infos | {"spiece_model": TensorInfo((7,), "U8", 7)} | changed)


def test_config_of_the_published_shapes_is_the_published_one():
    with gzip.open(MANIFEST) as file:
        published = json.load(file)["metadata"]["config"]
    published = json.loads(published) if isinstance(published, str) else published
    expected = GemmaConfig.from_header(Header({}, config=published))
    assert GemmaConfig.from_header(stored_header()) == expected
    for changed in ({"model.layers.48.mlp.up_proj.weight": TensorInfo((15_360, 3840), "BF16", 2)},
                    {"model.layers.7.mlp.up_proj.weight": TensorInfo((15_361, 3840), "BF16", 2)}):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"no Gemma 3 12B by its tensors.*Put the config\.json"):
            GemmaConfig.from_header(stored_header(**changed))


def test_other_sizes_need_their_config_beside_the_file(folder, tmp_path):
    file = as_file(folder, tmp_path / "comfy" / "gemma.safetensors")
    weights = tiny_checkpoints.write_weights(tmp_path / "weights.safetensors")
    words = ("a blue ball", "--weights", weights, "--gemma", file, "--pipeline", "one-stage", "--dry-run")
    result = run(*words)
    assert result.exit_code == cli.REFUSED and "no Gemma 3 12B" in " ".join(result.stderr.split())
    (file.parent / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert run(*words).exit_code == 0


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (bytes(7), "is damaged"),
        (PIECES[:3000], "is damaged"),
        (trained(add_dummy_prefix=True), "does not keep spaces"),
        (trained(remove_extra_whitespaces=True), "does not keep spaces"),
        (trained(bos_piece="<s>"), "no <bos>"),
    ],
)
def test_other_pieces_are_refused_in_one_line(folder, tmp_path, as_12b, pieces, reason):
    file = as_file(folder, tmp_path / "comfy" / "gemma.safetensors", pieces=pieces)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_gemma(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_package_is_said(folder, tmp_path, as_12b, monkeypatch):
    file = as_file(folder, tmp_path / "comfy" / "gemma.safetensors")
    monkeypatch.delitem(sys.modules, "LTX_2_MLX.checkpoints.sentence_pieces", raising=False)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match=r"sentencepiece is not installed \(.*\)\. Install it, or put the tok"):
        load_gemma(file)
