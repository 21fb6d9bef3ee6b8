"""Files of FlashVSR: one folder with the transformer, the projector, a decoder and the prompt."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.convert import as_safetensors
from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import AUTO, TORCH_SUFFIXES, entry_by_name, resolve
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request
from LTX_2_MLX.pipelines.super_resolve.decoders import DECODERS, LATENT_CHANNELS, choose_decoder

_SUFFIXES = (".safetensors", *(f"{torch}.safetensors" for torch in TORCH_SUFFIXES), *TORCH_SUFFIXES)
# Published names without their ending; the first two kinds are the authors' and the plugin's, the last Wan2GP's.
_NAMES = {
    "transformer": (
        "diffusion_pytorch_model_streaming_dmd",
        "flashvsr_dit",
        "FlashVSR_{version}_transformer_bf16",
    ),
    "projector": ("LQ_proj_in", "FlashVSR_{version}_lq_proj_bf16"),
    "prompt": ("posi_prompt", "FlashVSR_{version}_posi_prompt_bf16"),
}
# Lies in both versions' repositories and is the same.
_SHARED = ("Wan2.1_VAE.pth",)
# Where decoders and the prompt may lie, seen from the transformer's folder.
_FOLDERS = (".", "VAEs", "../VAEs", "prompt_tensor", "../prompt_tensor", "..")


@dataclass(frozen=True)
class Files:
    """The checkpoints of one run, their headers read.

    Attributes:
        decoder_name: Which decoder it is, by its name in ``DECODERS``.
        note: What the user has to know of that choice.
    """

    transformer: Checkpoint
    projector: Checkpoint
    prompt: Checkpoint
    decoder: Checkpoint
    decoder_name: str
    note: str | None = None

    def read_prompt(self) -> mx.array:
        """Text features ``(L, text_dim)``; all the networks know of language."""
        (name,) = self.prompt.header.tensors
        features = self.prompt.arrays([name])[name]
        return features[0] if features.ndim == 3 else features


def open_files(request: Request) -> Files:
    """Find and check the files of a request.

    Raises:
        CheckpointError: If one is missing, of another network, or does not fit the others.
    """
    name, note = choose_decoder(request.mode, request.vae_type)
    folder, transformer = _transformer(request)
    files = Files(
        transformer=Checkpoint(transformer),
        projector=_open(folder, "projector", _NAMES["projector"], request.version),
        prompt=_open(folder, "prompt", _NAMES["prompt"], request.version),
        decoder=_decoder(folder, name, request, replaced=note is not None),
        decoder_name=name,
        note=note,
    )
    _check(files)
    return files


def _transformer(request: Request) -> tuple[Path, Path]:
    """FlashVSR's folder and the transformer's file in it."""
    wanted = f"flashvsr-{request.version}" if request.weights == AUTO else request.weights
    given = resolve(wanted, "super-resolution").path
    if given.is_dir():
        return given, _find(given, "transformer", _NAMES["transformer"], request.version)
    _check_version(given, request.version)
    return given.parent, as_safetensors(given)


def _decoder(folder: Path, name: str, request: Request, replaced: bool) -> Checkpoint:
    # A path given for a decoder that cannot be used is not the other one's.
    if request.vae_path is not None and not replaced:
        path = resolve(request.vae_path, "decoder").path
        _check_version(path, request.version)
        return Checkpoint(as_safetensors(path))
    stems = DECODERS[name].files
    try:
        return _open(folder, f"decoder {name}", stems, request.version)
    except CheckpointError:
        # It may lie elsewhere in weights/ or in the cache; if it does not, the catalogue says how to get it.
        if entry_by_name(stems[0]) is None:
            raise
        return Checkpoint(as_safetensors(resolve(stems[0], "decoder").path))


def _open(folder: Path, role: str, names: tuple[str, ...], version: str) -> Checkpoint:
    return Checkpoint(_find(folder, role, names, version))


def _find(folder: Path, role: str, names: tuple[str, ...], version: str) -> Path:
    stems = [name.format(version=version) for name in names]
    for place in _FOLDERS:
        for stem in stems:
            for suffix in _SUFFIXES:
                if (path := folder / place / f"{stem}{suffix}").is_file():
                    _check_version(path, version)
                    return as_safetensors(path)
    raise CheckpointError(
        f"{folder} holds no {role} of FlashVSR {version}: expected {' or '.join(stems)} (.safetensors, .ckpt or .pth). "
        f"scripts/download_weights.py --list says where to get it."
    )


def _check_version(path: Path, version: str) -> None:
    """Refuse a file that the catalogue knows to be another version's; its tensors do not tell."""
    found = version_of(path)
    if found not in (None, version):
        raise CheckpointError(
            f"{path} is FlashVSR {found}'s, but version is {version}. Pass --version {found}, or the folder with "
            f"{version}'s files as --weights."
        )


def version_of(path: Path) -> str | None:
    """Which FlashVSR a file belongs to, by its catalogued checksum or by the catalogued folder it lies in."""
    entries = [entry for entry in ENTRIES if entry.role == "super-resolution"]
    published = {(file.name, file.sha256): entry for entry in entries for file in entry.files if file.sha256}
    if any(name == path.name for name, _ in published):
        with path.open("rb") as file:
            known = published.get((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
        return known.name.removeprefix("flashvsr-") if known else None
    for entry in entries:
        # The folder under weights/, and the one the hub's cache has for a repository.
        folders = {entry.folder, f"models--{(entry.repository or '').replace('/', '--')}"}
        own = {_stem(file.name) for file in entry.files if file.name not in _SHARED}
        if folders & set(path.parts[:-1]) and _stem(path.name) in own:
            return entry.name.removeprefix("flashvsr-")
    return None


def _stem(name: str) -> str:
    """A file's name as published or converted, without its endings."""
    for suffix in (".safetensors", *TORCH_SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def _check(files: Files) -> None:
    transformer = config_of(WanTransformer, files.transformer)
    projector = config_of(LQProjection, files.projector)
    network = DECODERS[files.decoder_name].network
    decoder = config_of(network, files.decoder)
    if transformer.in_dim != LATENT_CHANNELS or decoder.latent_channels != transformer.out_dim:
        raise CheckpointError(
            f"{files.decoder.path} decodes latents of {decoder.latent_channels} channels, {files.transformer.path} "
            f"makes {transformer.out_dim}: {network.__name__} cannot finish them. Use {', '.join(DECODERS)}."
        )
    if projector.token_dim != transformer.dim:
        raise CheckpointError(
            f"{files.projector.path} makes tokens of {projector.token_dim} features, {files.transformer.path} takes "
            f"{transformer.dim}. Use files of one FlashVSR release."
        )
    tensors = list(files.prompt.header.tensors.values())
    if len(tensors) != 1 or len(tensors[0].shape) not in (2, 3) or tensors[0].shape[-1] != transformer.text_dim:
        raise CheckpointError(
            f"{files.prompt.path} is not the prompt: expected one tensor whose last axis is {transformer.text_dim}."
        )
