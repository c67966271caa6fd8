"""axe-core finds nothing serious in any view, in light and dark, on a desk and on a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from explored import show
from running_service import Service

ROOT = Path(__file__).resolve().parents[3]
AXE = ROOT / "build/tools/axe.min.js"

RUN = """
const told = (one) => ({
  id: one.id, impact: one.impact, nodes: one.nodes.map((node) => node.html + node.failureSummary),
});
return axe.run(document).then((found) => found.violations.map(told));
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    if not AXE.exists():
        pytest.skip("no axe-core: `make build/tools/axe.min.js` fetches it")
    return AXE.read_text()


def one_setting(page: Browser, running: Service) -> None:
    page.click(".curl summary")


def two_settings(page: Browser, running: Service) -> None:
    show(page, running, 'user=ann&k=10&compare={"k":10,"interests":1}')
    page.wait(lambda: len(page.texts(".pane .merged tbody tr")) == 20)


def an_item(page: Browser, running: Service) -> None:
    page.click(".interest .item")


def index(page: Browser, running: Service) -> None:
    page.click("nav a[href='#index']")
    page.wait(lambda: len(page.texts(".depths tbody tr")) > 2)


def the_map(page: Browser, running: Service) -> None:
    page.click("nav a[href='#map']")
    page.wait(lambda: page.run("return document.querySelectorAll('.map .place').length"))


def versions(page: Browser, running: Service) -> None:
    page.click("nav a[href='#versions']")
    page.wait(lambda: page.texts(".experiments tbody tr"))


@pytest.mark.parametrize("view", [one_setting, two_settings, an_item, index, the_map, versions])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_nothing(
    page: Browser,
    running: Service,
    axe: str,
    view: Callable[[Browser, Service], None],
    dark: bool,
    width: int,
) -> None:
    page.resize(width, 900, dark)
    view(page, running)
    page.run(axe)
    found: list[dict[str, Any]] = page.run(RUN)
    assert not found
