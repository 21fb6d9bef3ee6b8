"""Catalogue of the published files that this library uses: repository, size, licence, and the networks in them.

By default no file is downloaded; a command allows it on first use. Sizes that no public source states exactly are left
out; the hub's are shown before a download.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Role = Literal[
    "model", "video-vae", "audio-vae", "duration-head",
    "spatial-upscaler", "temporal-upscaler", "distilled-lora", "text-encoder", "interpolator", "upscaler",
    "super-resolution", "decoder", "lora", "prompt-enhancer",
]  # fmt: skip
Variant = Literal["dev", "distilled"]
Family = Literal["LTX-2", "LTX-2.3", "LTX-2.5", "demo"]

_HUB = "https://huggingface.co"


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
    def page(self) -> str:
        """Its web page."""
        return f"{_HUB}/{self.repository}" if self.repository else (self.url or "comes with the code")


# Fetches the files of an entry, or raises an error that says how to get them.
Obtain = Callable[[Entry], None]
# Set where downloads on first use are allowed.
OBTAIN: ContextVar[Obtain | None] = ContextVar("obtain", default=None)


def obtain(entry: Entry) -> bool:
    """Download the files of an entry if that is allowed; returns whether it was.

    Raises:
        DownloadError: If it is allowed and fails, or the user refuses.
    """
    fetch = OBTAIN.get()
    if fetch is None or entry.family == "demo":
        return False
    fetch(entry)
    return True


LTX_LICENCE = "LTX-2 Community License"
# The text of August 2026, under which LTX-2.5 is published.
LTX_2_5_LICENCE = "LTX-2.x Community License"
GEMMA_LICENCE = "Gemma Terms of Use"
# FlashVSR's fixed prompt lies in its code repository alone, and is the same for both versions.
_PROMPT_URL = (
    "https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/ccac0ac457243a47c13997682ebbaf987dabbea7/"
    "examples/WanVSR/prompt_tensor/posi_prompt.pth"
)
_PROMPT_BLOB = "95c840b20b8d6aa0d16504ee04e49f1c01a7f209"
_ESRGAN_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
# Of a folder with a language model and its tokenizer.
_GEMMA_FILES = (
    PublishedFile("config.json"),
    PublishedFile("tokenizer.json"),
    PublishedFile("tokenizer_config.json"),
    PublishedFile("*.safetensors"),
    PublishedFile("*.safetensors.index.json", optional=True),
)
AUDIO_VIDEO = ("transformer", "text connectors", "video VAE", "audio VAE", "vocoder")
UPSCALER = ("latent upscaler",)


def ltx(
    name: str,
    role: Role,
    networks: tuple[str, ...],
    num_bytes: int | None = None,
    *,
    variant: Variant | None = None,
    about_bytes: int | None = None,
) -> Entry:
    """A file of LTX-2 or LTX-2.3, at the top of its repository."""
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


def ltx_2_5(
    path: str, role: Role, networks: tuple[str, ...], num_bytes: int | None = None, *, variant: Variant | None = None
) -> Entry:
    """A file of LTX-2.5, in the folder of its repository for files of its kind."""
    file = PublishedFile(f"{path}.safetensors", num_bytes)
    return Entry(
        name=file.name.removesuffix(".safetensors"),
        role=role,
        files=(file,),
        folder="ltx-2.5",
        licence=LTX_2_5_LICENCE,
        networks=networks,
        repository="Lightricks/LTX-2.5",
        family="LTX-2.5",
        variant=variant,
        gated=True,
    )


def chat_gemma4(name: str, repository: str, about_bytes: int, notes: str = "") -> Entry:
    """A folder of Gemma 4's chat model, which rewrites prompts for LTX-2.5."""
    return Entry(
        name=name,
        role="prompt-enhancer",
        files=_GEMMA_FILES,
        folder=f"gemma-4/{name}",
        licence="Apache-2.0",
        networks=("Gemma 4",),
        repository=repository,
        about_bytes=about_bytes,
        notes=notes,
    )


def gemma(name: str, repository: str, about_bytes: int, *, gated: bool = False, notes: str = "") -> Entry:
    """A folder of Gemma 3, the text encoder of LTX-2 and LTX-2.3."""
    return Entry(
        name=name,
        role="text-encoder",
        files=_GEMMA_FILES,
        folder=f"gemma/{name}",
        licence=GEMMA_LICENCE,
        networks=("Gemma 3",),
        repository=repository,
        about_bytes=about_bytes,
        gated=gated,
        notes=notes,
    )


def esrgan(name: str, release: str, network: str, sha256: str | None = None, about_bytes: int | None = None) -> Entry:
    """A network of Real-ESRGAN from a release of its authors."""
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


def esrgan_on_the_hub(scale: int) -> Entry:
    """A network of Real-ESRGAN from the hub."""
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


def flashvsr(version: str, repository: str) -> Entry:
    """The folder of one version of FlashVSR."""
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


def autoencoder(file: str, network: str, num_bytes: int | None = None, sha256: str | None = None) -> Entry:
    """A video autoencoder that FlashVSR's full mode can use."""
    return Entry(
        name=file.rsplit(".", 1)[0],
        role="decoder",
        files=(PublishedFile(file, num_bytes, sha256),),
        folder="VAEs",
        licence="Apache-2.0",
        networks=(network,),
        repository="lightx2v/Autoencoders",
    )


def demo(name: str, role: Role, file: str, networks: tuple[str, ...], variant: Variant | None = None) -> Entry:
    """A file of the demo model that comes with the code."""
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


# Generations, the newest first.
FAMILIES: tuple[Family, ...] = ("LTX-2.5", "LTX-2.3", "LTX-2")
# In a repository of its own.
_DETAILING = Entry(
    name="ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0",
    role="lora",
    files=(PublishedFile("ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0.safetensors", 327_322_640),),
    folder="ltx-2.5",
    licence=LTX_2_5_LICENCE,
    networks=("IC-LoRA",),
    repository="Lightricks/LTX-2.5-22b-IC-LoRA-Pixel-Spatial-Upscaler",
    family="LTX-2.5",
    gated=True,
)
_TRANSFORMER = ("transformer", "text connectors")
# By priority within a generation for ``auto``; of several generations it takes the newest complete one.
ENTRIES = (
    ltx_2_5(
        "diffusion_models/ltx-2.5-22b-distilled-transformer-bf16",
        "model",
        _TRANSFORMER,
        42_018_190_584,
        variant="distilled",
    ),
    ltx_2_5("diffusion_models/ltx-2.5-22b-dev-transformer-bf16", "model", _TRANSFORMER, 42_018_190_584, variant="dev"),
    ltx("ltx-2.3-22b-distilled-1.1", "model", AUDIO_VIDEO, 46_149_345_038, variant="distilled"),
    ltx("ltx-2.3-22b-distilled", "model", AUDIO_VIDEO, 46_149_345_038, variant="distilled"),
    ltx("ltx-2.3-22b-dev", "model", AUDIO_VIDEO, variant="dev", about_bytes=46_100_000_000),
    ltx("ltx-2-19b-distilled", "model", AUDIO_VIDEO, variant="distilled", about_bytes=43_300_000_000),
    ltx("ltx-2-19b-dev", "model", AUDIO_VIDEO, variant="dev", about_bytes=43_300_000_000),
    ltx("ltx-2-19b-distilled-fp8", "model", AUDIO_VIDEO, variant="distilled", about_bytes=27_100_000_000),
    ltx("ltx-2-19b-dev-fp8", "model", AUDIO_VIDEO, variant="dev", about_bytes=27_100_000_000),
    ltx_2_5("vae/ltx-2.5-video-vae-conv-bf16", "video-vae", ("video encoder", "convolutional decoder"), 1_452_269_922),
    ltx_2_5("vae/ltx-2.5-video-vae-bf16", "video-vae", ("video encoder", "diffusion decoder"), 1_472_223_346),
    ltx_2_5("vae/ltx-2.5-audio-vae-bf16", "audio-vae", ("audio VAE", "vocoder"), 364_866_540),
    ltx_2_5("model_patches/ltx-2.5-duration-head-bf16", "duration-head", ("duration head",)),
    ltx_2_5(
        "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0", "spatial-upscaler", UPSCALER, 995_778_752
    ),
    ltx("ltx-2-spatial-upscaler-x2-1.0", "spatial-upscaler", UPSCALER, 995_765_578),
    ltx("ltx-2.3-spatial-upscaler-x2-1.1", "spatial-upscaler", UPSCALER, about_bytes=996_000_000),
    ltx("ltx-2.3-spatial-upscaler-x2-1.0", "spatial-upscaler", UPSCALER, 995_743_504),
    ltx("ltx-2.3-spatial-upscaler-x1.5-1.0", "spatial-upscaler", UPSCALER, about_bytes=1_090_000_000),
    ltx_2_5(
        "latent_upscale_models/ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0",
        "temporal-upscaler",
        UPSCALER,
        261_944_000,
    ),
    ltx("ltx-2-temporal-upscaler-x2-1.0", "temporal-upscaler", UPSCALER, 261_965_800),
    ltx("ltx-2.3-temporal-upscaler-x2-1.0", "temporal-upscaler", UPSCALER, 261_944_000),
    ltx_2_5("loras/ltx-2.5-22b-distilled-lora-450-bf16", "distilled-lora", ("LoRA",), 8_899_889_568),
    _DETAILING,
    ltx("ltx-2-19b-distilled-lora-384", "distilled-lora", ("LoRA",), about_bytes=7_674_600_000),
    ltx("ltx-2.3-22b-distilled-lora-384-1.1", "distilled-lora", ("LoRA",), about_bytes=7_605_500_000),
    ltx("ltx-2.3-22b-distilled-lora-384", "distilled-lora", ("LoRA",), about_bytes=7_605_500_000),
    ltx_2_5(
        "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16",
        "text-encoder",
        ("Gemma 4", "text projections"),
        26_263_860_594,
    ),
    gemma("gemma-3-12b-it", "google/gemma-3-12b-it", 24_400_000_000, gated=True),
    gemma(
        "gemma-3-12b-it-qat-q4_0-unquantized", "google/gemma-3-12b-it-qat-q4_0-unquantized", 24_400_000_000, gated=True
    ),
    gemma("gemma-3-12b-it-bf16", "mlx-community/gemma-3-12b-it-bf16", 24_400_000_000, notes="No login needed."),
    gemma("gemma-3-12b-it-8bit", "mlx-community/gemma-3-12b-it-8bit", 13_000_000_000, notes="8 bit, no login needed."),
    gemma("gemma-3-12b-it-4bit", "mlx-community/gemma-3-12b-it-4bit", 8_000_000_000, notes="4 bit, no login needed."),
    chat_gemma4("gemma-4-E2B-it", "google/gemma-4-E2B-it", 10_200_000_000),
    chat_gemma4("gemma-4-e2b-it-4bit", "mlx-community/gemma-4-e2b-it-4bit", 3_600_000_000, "4 bit."),
    Entry(
        name="rife-4.22.lite",
        role="interpolator",
        files=(PublishedFile("flownet.pkl"),),
        folder="rife",
        licence="MIT",
        networks=("IFNet 4.22.lite",),
        repository="elfgum/RIFE-4.22.lite",
    ),
    esrgan_on_the_hub(4),
    esrgan_on_the_hub(2),
    esrgan_on_the_hub(8),
    esrgan(
        "RealESRGAN_x4plus",
        "v0.1.0",
        "RRDBNet x4, 23 blocks",
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        67_000_000,
    ),
    esrgan("RealESRNet_x4plus", "v0.1.1", "RRDBNet x4, 23 blocks"),
    esrgan("RealESRGAN_x4plus_anime_6B", "v0.2.2.4", "RRDBNet x4, 6 blocks"),
    esrgan("RealESRGAN_x2plus", "v0.2.1", "RRDBNet x2, 23 blocks"),
    esrgan(
        "realesr-animevideov3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 16 convolutions",
        "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
    ),
    esrgan(
        "realesr-general-x4v3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 32 convolutions",
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
    ),
    esrgan(
        "realesr-general-wdn-x4v3",
        "v0.2.5.0",
        "SRVGGNetCompact x4, 32 convolutions",
        "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
    ),
    flashvsr("v1.1", "JunhaoZhuang/FlashVSR-v1.1"),
    flashvsr("v1", "JunhaoZhuang/FlashVSR"),
    autoencoder("Wan2.1_VAE.pth", "Wan 2.1 VAE"),
    autoencoder("Wan2.2_VAE.pth", "Wan 2.2 VAE"),
    autoencoder(
        "lightvaew2_1.pth",
        "pruned Wan 2.1 VAE",
        32_208_043,
        "d5d6b094d4829fb03b6179be2cf4589baab21c9fea1ca70dcaa8c85ba8183ec9",
    ),
    autoencoder(
        "lighttaew2_1.pth",
        "tiny autoencoder",
        45_301_802,
        "7c55c7d6b8eb3d24c7daca1295dea803fb847411e2c67bceecbb286f4dfdbef5",
    ),
    autoencoder("taew2_2.safetensors", "tiny autoencoder"),
    autoencoder("lighttaehy1_5.pth", "tiny autoencoder"),
    Entry(
        name="taeltx2_3",
        role="decoder",
        files=(PublishedFile("taeltx2_3.safetensors", git_blob="9553c906cd3d2a1deb85574d5236d256d795aa50"),),
        folder="VAEs",
        licence="MIT",
        networks=("tiny autoencoder",),
        url="https://raw.githubusercontent.com/madebyollin/taehv/1f14a568f24bf8811e0a0ac601613e04fc1581e8/safetensors",
        notes="Decodes previews of LTX-2, 2.3 and 2.5.",
    ),
    demo("demo-distilled", "model", "ltx-2-demo-distilled.safetensors", AUDIO_VIDEO[:3], "distilled"),
    demo("demo-dev", "model", "ltx-2-demo-dev.safetensors", AUDIO_VIDEO[:3], "dev"),
    demo("demo-spatial-upscaler", "spatial-upscaler", "ltx-2-demo-spatial-upscaler-x2.safetensors", UPSCALER),
    demo("demo-temporal-upscaler", "temporal-upscaler", "ltx-2-demo-temporal-upscaler-x2.safetensors", UPSCALER),
    demo("demo-distilled-lora", "distilled-lora", "ltx-2-demo-distilled-lora.safetensors", ("LoRA",)),
    demo("demo-gemma", "text-encoder", "gemma", ("Gemma 3",)),
)
