"""Entries of the catalogue of published files, and the functions that make them."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal[
    "model", "video-vae", "audio-vae", "duration-head",
    "spatial-upscaler", "temporal-upscaler", "distilled-lora", "text-encoder", "interpolator", "upscaler",
    "super-resolution", "decoder", "lora", "prompt-enhancer",
]  # fmt: skip
Variant = Literal["dev", "distilled"]
Family = Literal["LTX-2", "LTX-2.3", "LTX-2.5", "demo"]

LTX_LICENCE = "LTX-2 Community License"
# The text of August 2026, under which LTX-2.5 is published.
LTX_2_5_LICENCE = "LTX-2.x Community License"
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


# Of a folder with a language model and its tokenizer.
_GEMMA_FILES = (
    PublishedFile("config.json"),
    PublishedFile("tokenizer.json"),
    PublishedFile("tokenizer_config.json"),
    PublishedFile("*.safetensors"),
    PublishedFile("*.safetensors.index.json", optional=True),
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
