"""The page of drafts in a real browser: videos play, commands are copied, everything fits."""

from fractions import Fraction

import numpy as np
import pytest
from browser import CONTRAST, LEAST_CONTRAST, UNNAMED, Browser

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import write_video
from LTX_2_MLX.pages.drafts import DraftCard, drafts_page

HOSTILE = "</script><img src=x onerror=alert(1)> " + "x" * 300
COMMAND = "python scripts/generate.py --resume 'my drafts/seed-2' -o seed-2.mp4"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts")
    levels = np.linspace(0, 255, 12, dtype=np.uint8)[:, None, None, None]
    frames = np.broadcast_to(levels, (12, 64, 96, 3))
    write_video(FrameStream([frames], 64, 96, Fraction(12), 12), folder / "a.mp4")
    encoded = (folder / "a.mp4").read_bytes()
    cards = []
    for seed, prompt in ((1, HOSTILE), (2, "A blue ball"), (3, "A blue ball")):
        command = COMMAND.replace("2", str(seed))
        cards.append(DraftCard(f"seed-{seed}", prompt, seed, "96×64, 12 fps", command, encoded, b"", has_sound=True))
    path = folder / "drafts.html"
    path.write_text(drafts_page(cards, {"steps": "3", "weights": "x" * 200}, "all of them", "this folder"))
    return path


def test_videos_play_and_all_of_them_can_be_paused(browser: Browser, page):
    browser.open(page, 1440)
    browser.wait("videos.length === 3 && videos.every((video) => !video.paused && video.currentTime > 0.1)")
    assert browser.run("return videos.every((video) => video.loop && video.muted && video.controls)")
    browser.click("#all")
    browser.wait("videos.every((video) => video.paused)")
    browser.keys("#all", " ")
    browser.wait("videos.every((video) => !video.paused)")
    assert browser.errors() == []


@pytest.mark.parametrize("allowed", [True, False])
def test_a_command_is_copied(browser: Browser, page, allowed):
    browser.open(page, 1440)
    browser.allow("clipboardReadWrite")
    if not allowed:
        browser.run("navigator.clipboard.writeText = () => Promise.reject(new Error());")
    browser.click(".copy[data-copies=command-1]")
    browser.wait("document.querySelectorAll('[role=status]')[1].textContent === 'Copied'")
    browser.run("navigator.clipboard.readText().then((text) => { window.copied = text; });")
    browser.wait("window.copied")
    assert browser.run("return window.copied") == COMMAND


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_and_can_be_read(browser: Browser, page, width, dark):
    browser.open(page, width, dark=dark)
    browser.run("document.querySelector('details').open = true")
    assert browser.overflow() <= 0
    assert browser.run(CONTRAST) >= LEAST_CONTRAST
    assert browser.run(UNNAMED) == 0
    assert browser.run("return document.querySelectorAll('img').length") == 0
