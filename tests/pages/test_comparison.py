"""Two videos on one page, in a real browser."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from browser import CONTRAST, LEAST_CONTRAST, UNNAMED, Browser
from PIL import Image

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pages.document import document, json_text, text
from LTX_2_MLX.pipelines.compare import write_comparison_page

PEBBLES = Path(__file__).parents[1] / "media" / "pebbles_160x112.mp4"
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J.mp4"


def clip(levels: int, num_frames: int = 5, size: tuple[int, int] = (48, 80)) -> FrameStream:
    """Grey ramps that move, some levels brighter."""
    frames = np.zeros((num_frames, *size, 3), np.uint8)
    for index in range(num_frames):
        frames[index] = (np.arange(size[1]) + 10 * index)[None, :, None] + levels
    return FrameStream([frames], *size, frame_rate=Fraction(10), num_frames=num_frames)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return write_comparison_page([clip(0), clip(16)], ["before", HOSTILE], path)


def test_page_shows_both_videos_left_and_right_of_the_line(browser: Browser, page):
    browser.open(page, 1440)
    browser.wait("video.readyState >= 2 && document.getElementById('position').textContent.startsWith('0 of 4')")
    browser.keys("body", "\ue014\ue014")
    browser.wait("document.getElementById('position').textContent.startsWith('2 of 4')")
    column = "context.getImageData(Math.round(canvas.width * {}), canvas.height >> 1, 1, 1).data[0]"
    # Frame 2 is 20 levels brighter than the ramp, the right video 16 more; the copies are encoded.
    browser.wait(f"Math.abs({column.format(0.25)} - (20 + 20)) < 6")
    browser.wait(f"Math.abs({column.format(0.75)} - (60 + 20 + 16)) < 6")
    assert browser.errors() == []


def test_page_plays(browser: Browser, page):
    browser.open(page, 1440)
    browser.wait("video.readyState >= 2")
    browser.click("#play")
    browser.wait("!video.paused && video.currentTime > 0.15")
    browser.click("#play")
    browser.wait("video.paused")


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_and_can_be_read(browser: Browser, page, width, dark):
    browser.open(page, width, dark=dark)
    browser.wait("document.getElementById('position').textContent")
    assert browser.overflow() <= 0
    assert browser.run(CONTRAST) >= LEAST_CONTRAST
    assert browser.run(UNNAMED) == 0


def test_names_from_outside_are_text(browser: Browser, page):
    browser.open(page, 1440)
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert "\x1b" not in page.read_text()
    assert browser.errors() == []


def test_page_tells_the_difference(page):
    # 16 levels everywhere: 10 log10(255² / 16²).
    assert "mean 24.048 dB, lowest 24.048 dB at frame" in page.read_text()


def test_page_holds_no_path(page):
    assert str(page.parent) not in page.read_text()


def test_text_and_data_cannot_leave_their_elements():
    assert text("<a b='c'>&") == "&lt;a b=&#x27;c&#x27;&gt;&amp;"
    assert "<" not in json_text({"name": "</script>"})
    assert document("t", "", data={"name": "</script>"}).count("</script>") == 1


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "LTX_2_MLX", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command_writes_a_video_with_the_sound_of_the_first(tmp_path):
    done = run(PEBBLES, PEBBLES, "-o", tmp_path / "side.mp4", "--label", "one", "--label", "two", "--quiet")
    assert done.returncode == 0, done.stderr
    together = read_video(tmp_path / "side.mp4")
    assert (together.width, together.num_frames) == (320, 12)
    assert together.height == 112 + 18
    assert together.audio is not None
    done = run(PEBBLES, PEBBLES, "-o", tmp_path / "loop.webp", "--wipe", "--height", "48", "--quiet")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "loop.webp").n_frames == 12


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.mp4", "-o", "x.mp4"], "1 videos were given, expected 2 or 3"),
        (["a.mp4", "b.mp4", "-o", "x.mp4", "--label", "one"], "Give one for each"),
        (["a.mp4", "b.mp4", "-o", "x.html", "--wipe"], "--wipe is for videos"),
        (["a.mp4", "b.mp4", "-o", "x.txt"], "Unsupported video format"),
    ],
)
def test_command_refuses_what_makes_no_sense(arguments, expected):
    done = run(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr and done.stderr.count("\n") == 1
