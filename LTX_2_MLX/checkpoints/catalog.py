"""The published files that this library uses: repository, size, licence, and the networks in them.

Sizes that no public source states exactly are left out; the hub's are shown before a download.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from LTX_2_MLX.checkpoints.torch_file import TORCH_SUFFIXES

Role = Literal[
    "model", "video-vae", "audio-vae", "duration-head",
    "spatial-upscaler", "temporal-upscaler", "distilled-lora", "text-encoder", "interpolator", "upscaler",
    "super-resolution", "decoder", "lora",
]  # fmt: skip
Variant = Literal["dev", "distilled"]
Family = Literal["LTX-2", "LTX-2.3", "demo"]

LTX_LICENCE = "LTX-2 Community License"
GEMMA_LICENCE = "Gemma Terms of Use"
_HUB = "https://huggingface.co"
# FlashVSR's fixed prompt lies in its code repository alone, and is the same for both versions.
_PROMPT_URL = (
    "https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/ccac0ac457243a47c13997682ebbaf987dabbea7/"
    "examples/WanVSR/prompt_tensor/posi_prompt.pth"
)
_PROMPT_BLOB = "95c840b20b8d6aa0d16504ee04e49f1c01a7f209"
_ESRGAN_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a repository.

    Attributes:
        path: In the repository; may contain ``*``.
        num_bytes: Exact size, if known.
        sha256: Of the content, if known.
        optional: Downloaded only if the repository has it.
        url: Its address, if it does not lie in the entry's repository; optional then means that users may have the
            folder without it.
        git_blob: Git's name of the content, if known.
    """

    path: str
    num_bytes: int | None = None
    sha256: str | None = None
    optional: bool = False
    url: str | None = None
    git_blob: str | None = None

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Entry:
    """One checkpoint, or the files of one model, downloaded together under one name.

    Attributes:
        name: What users type.
        role: What it is used for.
        files: One file, or the files of a folder.
        folder: Its folder under ``weights/``; a model of several files has one of its own.
        repository: On the Hugging Face hub; None for files at ``url``.
        url: Address of the folder with the files, if they are not on the hub.
        licence: Of the weights.
        networks: The networks in it.
        family: Generation of the model; files of one family belong together.
        variant: How a model was trained.
        about_bytes: Approximate size of all files from a public listing, if the exact one is not known.
        gated: The repository needs a login and an accepted licence.
    """

    name: str
    role: Role
    files: tuple[PublishedFile, ...]
    folder: str
    licence: str
    networks: tuple[str, ...]
    repository: str | None = None
    url: str | None = None
    family: Family | None = None
    variant: Variant | None = None
    about_bytes: int | None = None
    gated: bool = False
    notes: str = field(default="")

    @property
    def num_bytes(self) -> int | None:
        """Size of all files, exact or approximate; None if unknown."""
        total = 0
        for file in self.files:
            if file.optional:
                continue
            if file.num_bytes is None:
                return self.about_bytes
            total += file.num_bytes
        return total

    @property
    def is_folder(self) -> bool:
        """Whether a loader takes the whole folder."""
        return len(self.files) > 1

    @property
    def page(self) -> str:
        """Its web page."""
        return f"{_HUB}/{self.repository}" if self.repository else (self.url or "comes with the code")


_AUDIO_VIDEO = ("transformer", "text connectors", "video VAE", "audio VAE", "vocoder")
_UPSCALER = ("latent upscaler",)


def _ltx(
    name: str,
    role: Role,
    networks: tuple[str, ...],
    num_bytes: int | None = None,
    *,
    variant: Variant | None = None,
    about_bytes: int | None = None,
) -> Entry:
    family: Family = "LTX-2.3" if name.startswith("ltx-2.3") else "LTX-2"
    return Entry(
        name=name,
        role=role,
        files=(PublishedFile(f"{name}.safetensors", num_bytes),),
        folder=family.lower(),
        licence=LTX_LICENCE,
        networks=networks,
        repository=f"Lightricks/{family}",
        family=family,
        variant=variant,
        about_bytes=about_bytes,
    )


def _gemma(name: str, repository: str, about_bytes: int, *, gated: bool = False, notes: str = "") -> Entry:
    files = (
        PublishedFile("config.json"),
        PublishedFile("tokenizer.json"),
        PublishedFile("tokenizer_config.json"),
        PublishedFile("*.safetensors"),
        PublishedFile("*.safetensors.index.json", optional=True),
    )
    return Entry(
        name=name,
        role="text-encoder",
        files=files,
        folder=f"gemma/{name}",
        licence=GEMMA_LICENCE,
        networks=("Gemma 3",),
        repository=repository,
        about_bytes=about_bytes,
        gated=gated,
        notes=notes,
    )


def _esrgan(name: str, release: str, network: str, sha256: str | None = None, about_bytes: int | None = None) -> Entry:
    return Entry(
        name=name,
        role="upscaler",
        files=(PublishedFile(f"{name}.pth", sha256=sha256),),
        folder="real-esrgan",
        licence="BSD-3-Clause",
        networks=(network,),
        url=f"{_ESRGAN_RELEASES}/{release}",
        about_bytes=about_bytes,
    )


def _esrgan_on_the_hub(scale: int) -> Entry:
    return Entry(
        name=f"RealESRGAN_x{scale}",
        role="upscaler",
        files=(PublishedFile(f"RealESRGAN_x{scale}.pth"),),
        folder="real-esrgan",
        licence="BSD-3-Clause",
        networks=(f"RRDBNet x{scale}, 23 blocks",),
        repository="ai-forever/Real-ESRGAN",
        about_bytes=67_000_000,
    )


def _flashvsr(version: str, repository: str) -> Entry:
    files = (
        PublishedFile("diffusion_pytorch_model_streaming_dmd.safetensors"),
        PublishedFile("LQ_proj_in.ckpt"),
        PublishedFile("TCDecoder.ckpt"),
        PublishedFile("Wan2.1_VAE.pth"),
        PublishedFile("posi_prompt.pth", optional=True, url=_PROMPT_URL, git_blob=_PROMPT_BLOB),
    )
    return Entry(
        name=f"flashvsr-{version}",
        role="super-resolution",
        files=files,
        folder=f"FlashVSR-{version}",
        licence="Apache-2.0",
        networks=("transformer", "LQ projection", "TCDecoder", "Wan 2.1 VAE"),
        repository=repository,
        about_bytes=6_900_000_000,
        notes="posi_prompt.pth comes from the code repository.",
    )


def _autoencoder(file: str, network: str, num_bytes: int | None = None, sha256: str | None = None) -> Entry:
    return Entry(
        name=file.rsplit(".", 1)[0],
        role="decoder",
        files=(PublishedFile(file, num_bytes, sha256),),
        folder="VAEs",
        licence="Apache-2.0",
        networks=(network,),
        repository="lightx2v/Autoencoders",
    )


def _demo(name: str, role: Role, file: str, networks: tuple[str, ...], variant: Variant | None = None) -> Entry:
    return Entry(
        name=name,
        role=role,
        files=(PublishedFile(file),),
        folder="demo",
        licence="Apache-2.0",
        networks=networks,
        family="demo",
        variant=variant,
    )


# By priority for ``auto``, which takes the first one that is on this machine.
ENTRIES = (
    _ltx("ltx-2-19b-distilled", "model", _AUDIO_VIDEO, variant="distilled", about_bytes=43_300_000_000),
    _ltx("ltx-2-19b-dev", "model", _AUDIO_VIDEO, variant="dev", about_bytes=43_300_000_000),
    _ltx("ltx-2-19b-distilled-fp8", "model", _AUDIO_VIDEO, variant="distilled", about_bytes=27_100_000_000),
    _ltx("ltx-2-19b-dev-fp8", "model", _AUDIO_VIDEO, variant="dev", about_bytes=27_100_000_000),
    _ltx("ltx-2.3-22b-distilled-1.1", "model", _AUDIO_VIDEO, 46_149_345_038, variant="distilled"),
    _ltx("ltx-2.3-22b-distilled", "model", _AUDIO_VIDEO, 46_149_345_038, variant="distilled"),
    _ltx("ltx-2.3-22b-dev", "model", _AUDIO_VIDEO, variant="dev", about_bytes=46_100_000_000),
    _ltx("ltx-2-spatial-upscaler-x2-1.0", "spatial-upscaler", _UPSCALER, 995_765_578),
    _ltx("ltx-2.3-spatial-upscaler-x2-1.1", "spatial-upscaler", _UPSCALER, about_bytes=996_000_000),
    _ltx("ltx-2.3-spatial-upscaler-x2-1.0", "spatial-upscaler", _UPSCALER, 995_743_504),
    _ltx("ltx-2.3-spatial-upscaler-x1.5-1.0", "spatial-upscaler", _UPSCALER, about_bytes=1_090_000_000),
    _ltx("ltx-2-temporal-upscaler-x2-1.0", "temporal-upscaler", _UPSCALER, 261_965_800),
    _ltx("ltx-2.3-temporal-upscaler-x2-1.0", "temporal-upscaler", _UPSCALER, 261_944_000),
    _ltx("ltx-2-19b-distilled-lora-384", "distilled-lora", ("LoRA",), about_bytes=7_674_600_000),
    _ltx("ltx-2.3-22b-distilled-lora-384-1.1", "distilled-lora", ("LoRA",), about_bytes=7_605_500_000),
    _ltx("ltx-2.3-22b-distilled-lora-384", "distilled-lora", ("LoRA",), about_bytes=7_605_500_000),
    _gemma("gemma-3-12b-it", "google/gemma-3-12b-it", 24_400_000_000, gated=True),
    _gemma(
        "gemma-3-12b-it-qat-q4_0-unquantized", "google/gemma-3-12b-it-qat-q4_0-unquantized", 24_400_000_000, gated=True
    ),
    _gemma("gemma-3-12b-it-bf16", "mlx-community/gemma-3-12b-it-bf16", 24_400_000_000, notes="No login needed."),
    _gemma("gemma-3-12b-it-8bit", "mlx-community/gemma-3-12b-it-8bit", 13_000_000_000, notes="8 bit, no login needed."),
    _gemma("gemma-3-12b-it-4bit", "mlx-community/gemma-3-12b-it-4bit", 8_000_000_000, notes="4 bit, no login needed."),
    Entry(
        name="rife-4.22.lite",
        role="interpolator",
        files=(PublishedFile("flownet.pkl"),),
        folder="rife",
        licence="MIT",
        networks=("IFNet 4.22.lite",),
        repository="elfgum/RIFE-4.22.lite",
    ),
    _esrgan_on_the_hub(4),
    _esrgan_on_the_hub(2),
    _esrgan_on_the_hub(8),
    _esrgan(
        "RealESRGAN_x4plus",
        "v0.1.0",
        "RRDBNet x4, 23 blocks",
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        67_000_000,
    ),
    _esrgan("RealESRNet_x4plus", "v0.1.1", "RRDBNet x4, 23 blocks"),
    _esrgan("RealESRGAN_x4plus_anime_6B", "v0.2.2.4", "RRDBNet x4, 6 blocks"),
    _esrgan("RealESRGAN_x2plus", "v0.2.1", "RRDBNet x2, 23 blocks"),
    _esrgan(
        "realesr-animevideov3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 16 convolutions",
        "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
    ),
    _esrgan(
        "realesr-general-x4v3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 32 convolutions",
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
    ),
    _esrgan(
        "realesr-general-wdn-x4v3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 32 convolutions",
        "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
    ),
    _flashvsr("v1.1", "JunhaoZhuang/FlashVSR-v1.1"),
    _flashvsr("v1", "JunhaoZhuang/FlashVSR"),
    _autoencoder("Wan2.1_VAE.pth", "Wan 2.1 VAE"),
    _autoencoder("Wan2.2_VAE.pth", "Wan 2.2 VAE"),
    _autoencoder(
        "lightvaew2_1.pth",
        "pruned Wan 2.1 VAE",
        32_208_043,
        "d5d6b094d4829fb03b6179be2cf4589baab21c9fea1ca70dcaa8c85ba8183ec9",
    ),
    _autoencoder(
        "lighttaew2_1.pth",
        "tiny autoencoder",
        45_301_802,
        "7c55c7d6b8eb3d24c7daca1295dea803fb847411e2c67bceecbb286f4dfdbef5",
    ),
    _autoencoder("taew2_2.safetensors", "tiny autoencoder"),
    _autoencoder("lighttaehy1_5.pth", "tiny autoencoder"),
    _demo("demo-distilled", "model", "ltx-2-demo-distilled.safetensors", _AUDIO_VIDEO[:3], "distilled"),
    _demo("demo-dev", "model", "ltx-2-demo-dev.safetensors", _AUDIO_VIDEO[:3], "dev"),
    _demo("demo-spatial-upscaler", "spatial-upscaler", "ltx-2-demo-spatial-upscaler-x2.safetensors", _UPSCALER),
    _demo("demo-temporal-upscaler", "temporal-upscaler", "ltx-2-demo-temporal-upscaler-x2.safetensors", _UPSCALER),
    _demo("demo-distilled-lora", "distilled-lora", "ltx-2-demo-distilled-lora.safetensors", ("LoRA",)),
    _demo("demo-gemma", "text-encoder", "gemma", ("Gemma 3",)),
)


def file_entry(repository: str, file: str) -> Entry:
    """An entry for one file of any repository on the hub."""
    return Entry(
        name=f"{repository}:{file}",
        role="model",
        files=(PublishedFile(file),),
        folder=repository.rsplit("/", 1)[-1].lower(),
        licence="see the repository's page",
        networks=("unknown",),
        repository=repository,
    )


BY_NAME = {entry.name.lower(): entry for entry in ENTRIES}


def entry_by_name(name: str) -> Entry | None:
    """The entry of a catalogue name or of a published file's name, in any case; None if there is none."""
    lower = name.lower()
    if lower in BY_NAME:
        return BY_NAME[lower]
    return next((e for e in ENTRIES if not e.is_folder and e.files[0].name.lower() == lower), None)


def entries_for_role(role: Role, *, family: Family | None = None, variant: Variant | None = None) -> list[Entry]:
    """Entries of a role in order of preference; None for ``family`` or ``variant`` means any."""
    entries = []
    for entry in ENTRIES:
        if entry.role == role and family in (None, entry.family) and variant in (None, entry.variant):
            entries.append(entry)
    return entries


def entry_of_file(path: Path) -> Entry | None:
    """The entry of a published file by its name, and for the demo by its folder too; None for other files."""
    for entry in ENTRIES:
        if entry.is_folder or path.name not in local_names(entry):
            continue
        if entry.family != "demo" or path.resolve().parent.name == "demo":
            return entry
    return None


def local_names(entry: Entry) -> list[str]:
    """Names that a single-file entry may have on disk: the published one and those of its conversion."""
    name = entry.files[0].name
    if Path(name).suffix not in TORCH_SUFFIXES:
        return [name]
    return [name, f"{name}.safetensors", f"{Path(name).stem}.safetensors"]
