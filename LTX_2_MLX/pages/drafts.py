"""A page of drafts: a short looping video of each, its prompt and seed, and the command that finishes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from LTX_2_MLX.pages.document import base64_text, document, text

_CAPTION_LETTERS = 80


@dataclass(frozen=True)
class DraftCard:
    """One draft.

    Attributes:
        name: Of its folder.
        prompt: What was asked for.
        seed: Of its noise.
        facts: Size, length and rate, in words.
        command: Finishes it.
        encoded: An .mp4 file.
        poster: JPEG of its middle frame.
        has_sound: Whether the video has sound.
    """

    name: str
    prompt: str
    seed: int
    facts: str
    command: str
    encoded: bytes
    poster: bytes
    has_sound: bool = False


def drafts_page(cards: Sequence[DraftCard], settings: Mapping[str, str], all_command: str, where: str) -> str:
    """The page as HTML.

    Args:
        cards: In order.
        settings: What all of them share, in words.
        all_command: Finishes all of them.
        where: The folder in which the commands work, in words.
    """
    kinds = "draft" if len(cards) == 1 else "drafts"
    parts = [
        '<p class="quiet">Each is stage 1 of a video. The command below it goes on from there; '
        f"run it in {text(where)}.</p>",
        '<div class="controls"><button id="all" aria-pressed="false">Pause all</button></div>',
        f'<div class="drafts">{"".join(_card(number, card) for number, card in enumerate(cards))}</div>',
    ]
    if len(cards) > 1:
        parts.append(
            f'<h2>All of them</h2><div class="draft">{_command("all-command", all_command, "all drafts")}</div>'
        )
    rows = "".join(
        f"<tr><th scope='row'>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in settings.items()
    )
    parts.append(f"<details><summary>Settings</summary><div class='figures'><table>{rows}</table></div></details>")
    return document(f"{len(cards)} {kinds}", "\n".join(parts), scripts=("drafts.js",))


def _card(number: int, card: DraftCard) -> str:
    sound = ", with sound: unmute to listen" if card.has_sound else ""
    return f"""<article class="draft" aria-labelledby="name-{number}">
<video controls loop muted playsinline aria-label="Draft {text(card.name)}: {text(card.prompt[:_CAPTION_LETTERS])}"
 poster="data:image/jpeg;base64,{base64_text(card.poster)}"></video>
<h2 id="name-{number}">{text(card.name)}</h2>
<p>{text(card.prompt)}</p>
<p class="quiet">Seed {card.seed}, {text(card.facts)}{sound}</p>
{_command(f"command-{number}", card.command, card.name)}
<script type="text/plain" class="video-data">{base64_text(card.encoded)}</script>
</article>"""


def _command(element: str, command: str, what: str) -> str:
    label = f"Copy the command that finishes {text(what)}"
    return (
        f'<pre tabindex="0" aria-label="Command" id="{element}">{text(command)}</pre>'
        f'<div class="controls"><button class="copy" data-copies="{element}" aria-label="{label}">Copy</button>'
        '<span class="quiet" role="status"></span></div>'
    )
