"""Decoders allowed in each mode: the one table for commands, checks and documentation."""

from dataclasses import dataclass
from typing import Any, Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.interfaces import PublishedNetwork
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.vae import WanDecoder

Mode = Literal["tiny", "tiny-long", "full"]
# Channels of the latents that FlashVSR's transformer makes: those of Wan 2.1.
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class DecoderChoice:
    """One decoder by the name it is asked for.

    Attributes:
        network: Its class.
        latent_channels: Of the latents it was trained for.
        full: It belongs to ``full``; otherwise to ``tiny`` and ``tiny-long``.
        files: Published names of its file, without the ending.
    """

    network: type[PublishedNetwork[Any]]
    latent_channels: int
    full: bool
    files: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it was trained for the latents that FlashVSR makes."""
        return self.latent_channels == LATENT_CHANNELS


DECODERS = {
    "wan2.1": DecoderChoice(WanDecoder, 16, True, ("Wan2.1_VAE", "vae")),
    "light": DecoderChoice(WanDecoder, 16, True, ("lightvaew2_1",)),
    "wan2.2": DecoderChoice(WanDecoder, 48, True, ("Wan2.2_VAE",)),
    "tcd": DecoderChoice(
        ConditionalDecoder, 16, False, ("TCDecoder", "tcdecoder", "FlashVSR_{version}_tcdecoder_bf16")
    ),
    "tae-w2.1": DecoderChoice(TinyAutoencoder, 16, False, ("taew2_1",)),
    "lighttae-w2.1": DecoderChoice(TinyAutoencoder, 16, False, ("lighttaew2_1",)),
    "tae-w2.2": DecoderChoice(TinyAutoencoder, 48, False, ("taew2_2",)),
    "tae-hv": DecoderChoice(LightTinyAutoencoder, 32, False, ("lighttaehy1_5",)),
}
ALIASES = {"lighttae-hy1.5": "tae-hv"}
DEFAULTS: dict[Mode, str] = {"tiny": "tcd", "tiny-long": "tcd", "full": "wan2.1"}


def allowed(mode: Mode) -> list[str]:
    """Names of the decoders that finish a mode, its default first."""
    names = [name for name, choice in DECODERS.items() if choice.fits and choice.full == (mode == "full")]
    return sorted(names, key=lambda name: name != DEFAULTS[mode])


def matrix() -> list[str]:
    """Modes and decoders as lines of a Markdown table."""

    def cell(mode: Mode, name: str) -> str:
        if name == DEFAULTS[mode]:
            return "default"
        return "yes" if name in allowed(mode) else "-"

    def row(name: str, choice: DecoderChoice) -> str:
        names = ", ".join(f"`{n}`" for n in (name, *(alias for alias, of in ALIASES.items() if of == name)))
        cells = " | ".join(cell(mode, name) for mode in DEFAULTS)
        return f"| {names} | `{choice.files[0]}` | {choice.latent_channels} | {cells} |"

    head = f"| decoder | file | latent channels | {' | '.join(f'`{mode}`' for mode in DEFAULTS)} |"
    return [head, "|---" * (3 + len(DEFAULTS)) + "|", *(row(name, choice) for name, choice in DECODERS.items())]


def choose_decoder(mode: Mode, vae_type: str | None) -> tuple[str, str | None]:
    """The decoder to use, and what to tell the user where it is not the one they named.

    Raises:
        RequestError: If mode or name is unknown.
    """
    if mode not in DEFAULTS:
        raise RequestError(f"mode is {mode!r}, it can be {', '.join(DEFAULTS)}.")
    default, fitting = DEFAULTS[mode], " or ".join(allowed(mode))
    if vae_type is None:
        return default, None
    name = ALIASES.get(vae_type, vae_type)
    if name not in DECODERS:
        raise RequestError(f"vae_type is {vae_type!r}, it can be {', '.join([*DECODERS, *ALIASES])}.")
    choice = DECODERS[name]
    if not choice.fits:
        reason = f"it decodes latents of {choice.latent_channels} channels, FlashVSR makes Wan 2.1's {LATENT_CHANNELS}"
    elif choice.full != (mode == "full"):
        reason = f"it does not belong to mode {mode}"
    else:
        return name, None
    return default, f"vae_type {vae_type} cannot be used: {reason}. Using {default}; {fitting} would fit."
