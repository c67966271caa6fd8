"""A headless Chromium as the tests drive it: the few commands of WebDriver that they need."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
from redis_server import free_port

WAIT_SECONDS = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name of an element's id in the protocol: https://www.w3.org/TR/webdriver/#elements"""
TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"


def missing() -> str:
    """Returns the reason why no browser can be driven here; empty if one can."""
    browsers = ("chromium", "google-chrome")
    if shutil.which("chromedriver") and any(map(shutil.which, browsers)):
        return ""
    return "no chromedriver, or no Chromium for it, on PATH (Debian: chromium-driver)"


class Browser:
    """One window."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def _do(self, method: str, path: str, **body: Any) -> Any:
        answer = self._session.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        """Opens an address."""
        self._do("POST", "url", url="about:blank")  # another fragment alone would load nothing
        self._do("POST", "url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Returns the value that a function body returns in the page."""
        return self._do("POST", "execute/sync", script=script, args=list(arguments))

    def command(self, name: str, **parameters: Any) -> Any:
        """Sends a command of Chromium's own protocol."""
        return self._do("POST", "goog/cdp/execute", cmd=name, params=parameters)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Gives the page this size in CSS pixels, and a light or a dark colour scheme.

        Nothing moves, so that no colour is between the two.
        """
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.command("Emulation.setEmulatedMedia", features=[scheme, still])

    def texts(self, selector: str) -> list[str]:
        """Returns the texts of all elements that match; that of a hidden one is empty."""
        text = "(e) => e.checkVisibility() ? e.innerText : ''"
        script = f"return [...document.querySelectorAll(arguments[0])].map({text})"
        found: list[str] = self.run(script, selector)
        return found

    def click(self, selector: str) -> None:
        """Clicks the first element that matches, which must be visible."""
        found = self._do("POST", "element", using="css selector", value=selector)
        self._do("POST", f"element/{found[ELEMENT]}/click")

    def fill(self, selector: str, text: str) -> None:
        """Replaces the text of a box."""
        found = self._do("POST", "element", using="css selector", value=selector)
        self._do("POST", f"element/{found[ELEMENT]}/clear")
        self._do("POST", f"element/{found[ELEMENT]}/value", text=text)

    def press(self, keys: str) -> None:
        """Presses keys, one after another, wherever the focus is."""
        actions = [{"type": kind, "value": k} for k in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._do("POST", "actions", actions=[source])

    def wait(self, condition: Callable[[], object]) -> None:
        """Returns when the condition holds. Raises AssertionError if it takes too long."""
        give_up = monotonic() + WAIT_SECONDS
        while not condition():
            assert monotonic() < give_up, f"waited in vain: {self.texts('body')} {self.errors()}"
            sleep(0.02)

    def errors(self) -> list[str]:
        """Returns the errors and warnings that the page has logged since the last call."""
        entries = self._do("POST", "se/log", type="browser")
        return [one["message"] for one in entries if one["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, file: Path) -> None:
        """Writes a picture of the window, PNG."""
        file.write_bytes(base64.b64decode(self._do("GET", "screenshot")))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Starts Chromium with a profile of its own in this folder."""
    port = free_port()
    with (folder / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
    options = {
        "args": [
            "--headless=new",
            "--no-sandbox",  # for root, as in a container
            "--disable-dev-shm-usage",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
        ]
    }
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
    try:
        give_up = monotonic() + WAIT_SECONDS
        while monotonic() < give_up:
            with suppress(httpx.TransportError, json.JSONDecodeError):
                if client.get("/status").json()["value"]["ready"]:
                    break
            sleep(0.05)
        answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        session = answer.json()["value"]
        assert answer.status_code == 200, session
        window = client.base_url.join(f"/session/{session['sessionId']}")
        client.base_url = window
        try:
            yield Browser(client)
        finally:
            with suppress(httpx.TransportError):
                client.delete(window)  # else Chromium outlives its driver
    finally:
        client.close()
        driver.terminate()
        driver.wait(timeout=30)
