"""A headless Chromium for pages, driven through chromedriver's own protocol (W3C WebDriver)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
_SWITCHES = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_SECONDS = 300
# Of text on the ground it stands on, by the rules for accessible pages.
LEAST_CONTRAST = 4.5
CONTRAST = """
const light = (text) => {
  const parts = text.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255);
  const [r, g, b] = parts.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour;
  }
};
let least = 21;
for (const node of document.querySelectorAll("h1, h2, p, th, td, button, select, label, summary, output")) {
  const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
  least = Math.min(least, (a + 0.05) / (b + 0.05));
}
return least;
"""
UNNAMED = """
return [...document.querySelectorAll("button, input, select, [role=img]")].filter((node) =>
  !(node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && node.labels.length))).length;
"""


class Browser:
    """One window."""

    def __init__(self, address: str):
        self._address = address
        options = {"binary": CHROMIUM, "args": _SWITCHES}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/session/{session['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, width: int, *, dark: bool = False, height: int = 1000) -> None:
        """Open a file in a window of this size in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._send("POST", "/url", {"url": page.resolve().as_uri()})

    def _command(self, name: str, **parameters: Any) -> None:
        self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script: str) -> Any:
        """The result of a script: ``return document.title``."""
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click an element as a user does; fails where another one covers it."""
        self._send("POST", f"/element/{self._element(selector)}/click")

    def allow(self, *permissions: str) -> None:
        """Grant the page permissions, such as ``clipboardReadWrite``."""
        self._command("Browser.grantPermissions", permissions=list(permissions))

    def keys(self, selector: str, keys: str) -> None:
        """Type into an element."""
        self._send("POST", f"/element/{self._element(selector)}/value", {"text": keys})

    def _element(self, selector: str) -> str:
        found: str = self._send("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        return found

    def errors(self) -> list[str]:
        """Errors of the page, and what it tried to load."""
        entries = self._send("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.run("return document.documentElement.scrollWidth - innerWidth"))

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._send("GET", "/screenshot"))

    def close(self) -> None:
        """End it."""
        self._send("DELETE", "")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """A browser for a module's tests; the driver chooses a free port itself."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            if "started successfully on port" in line:
                port = int(line.rstrip(".\n").rpartition(" ")[2])
                break
        else:
            raise AssertionError("chromedriver did not start")
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.kill()
        driver.wait()
