"""The explorer's page as its tests read it."""

from browser import Browser
from running_service import Service


def show(window: Browser, running: Service, settings: str) -> None:
    """Opens the page with these settings in its address, and waits for the recall."""
    window.open(f"http://127.0.0.1:{running.port}/explorer#{settings}")
    window.wait(lambda: window.run("return document.querySelectorAll('.merged tbody tr').length"))


def status(page: Browser) -> str:
    """Returns the line that tells what has happened."""
    return page.texts("[role=status]")[0]
