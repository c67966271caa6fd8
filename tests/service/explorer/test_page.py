"""The recalls of the explorer, in a real browser and before a real service."""

from pathlib import Path

import pytest
from browser import ENTER, ESCAPE, TAB, Browser
from explored import show, status
from running_service import Service, service

from model.data.dataset import Dataset

FOCUSED = "return document.activeElement.innerText || document.activeElement.getAttribute('name')"


def history(page: Browser) -> list[str]:
    return page.texts(".history .item b")


def stored(running: Service) -> list[str]:
    events = running.client.get("/users/ann/history").json()["events"]
    return [event["item_id"] for event in events]


def test_each_interest_is_a_column_with_its_offer(page: Browser, running: Service) -> None:
    body = {"user_id": "ann", "k": 10, "interests": 3}
    answer = running.client.post("/explorer/recall", json=body).json()
    steps = answer["explanation"]["interests"]
    assert len(page.texts(".interest")) == 3
    for number, interest in enumerate(steps, start=1):
        hits = page.texts(f".interest:nth-of-type({number}) .item b")
        assert hits == [hit["item_id"] for hit in interest["hits"]]
    offers = [text for text in page.texts(".offer") if text]
    assert offers == [f"Offered next: {interest['offer']} →" for interest in steps[:-1]]
    assert page.texts(".merged .item b") == [item["item_id"] for item in answer["items"]]
    sources = page.texts(".merged .chip")
    assert sources == [str(item["interest"] + 1) for item in answer["items"]]
    assert page.texts(".merged .related")[0] == "; ".join(answer["explanation"]["related"][0])
    assert history(page) == stored(running)[::-1]


def test_stage_times_and_curl(page: Browser) -> None:
    def names() -> list[str]:
        return [(text.split() or [""])[0] for text in page.texts(".stages li")]

    page.wait(lambda: names() == ["queue", "store", "model", "search", "merge", "encode"])
    page.click(".curl summary")
    (command,) = page.texts(".curl code")
    assert command.startswith("curl -s 'http://127.0.0.1:")
    assert '"user_id":"ann"' in command


def test_an_event_moves_the_interests(page: Browser, running: Service) -> None:
    before = stored(running)
    chosen = page.texts(".interest .item b")[0]
    page.click(".interest .item")
    page.run("document.querySelector('dialog select').value = 'like'")
    page.run("document.querySelector('dialog select').dispatchEvent(new Event('change'))")
    page.click("dialog [type=submit]")
    page.wait(lambda: status(page).startswith(f"like of {chosen}: "))
    assert stored(running) == [*before, chosen]
    assert history(page)[0] == chosen
    assert chosen not in page.texts(".merged .item b")


def test_the_history_is_edited_on_the_page_only(
    page: Browser, running: Service, dataset: Dataset
) -> None:
    before = history(page)
    page.click(".history .remove")
    page.wait(lambda: status(page) == "The history was edited: 5 items")
    assert history(page) == before[1:]
    page.fill(".add input", dataset.item_ids[20])
    page.click(".add button")
    page.wait(lambda: status(page) == "The history was edited: 6 items")
    assert history(page) == [dataset.item_ids[20], *before[1:]]
    assert stored(running) == before[::-1]
    page.click(".whole")
    page.wait(lambda: status(page) == "Back to the stored history")
    assert history(page) == before


def test_two_settings_side_by_side(page: Browser, running: Service) -> None:
    page.click(".buttons [type=button]")
    page.wait(lambda: len(page.texts(".pane .merged")) == 2)
    page.fill(".setting-b label:nth-of-type(2) input", "1")
    page.click(".ask [type=submit]")
    page.wait(lambda: len(page.texts(".setting-b .interest")) == 1)
    bodies = [{"user_id": "ann", "k": 10, "interests": number} for number in (3, 1)]
    answers = [running.client.post("/recall", json=body).json()["items"] for body in bodies]
    first, second = ({item["item_id"] for item in items} for items in answers)
    shared = f"{len(first & second)} of 10 items are in both lists"
    page.wait(lambda: all(shared in title for title in page.texts(".pane h2")))
    marked = [text for text in page.texts(".setting-b .mark.both") if text]
    assert len(marked) == len(first & second)
    address = page.run("return location.href")
    page.open(address)
    page.wait(lambda: len(page.texts(".pane .merged tbody tr")) == 20)
    assert len(page.texts(".setting-b .interest")) == 1


def test_wrong_settings_are_explained(page: Browser) -> None:
    page.fill(".pane-settings label:last-of-type input", "{nonsense")
    page.click(".ask [type=submit]")
    page.wait(lambda: "Other fields is not JSON" in page.texts(".pane .error")[0])
    page.fill(".pane-settings label:last-of-type input", '{"unheard_of": 1}')
    page.click(".ask [type=submit]")
    page.wait(lambda: "unheard_of" in page.texts(".pane .error")[0])
    assert "422" in page.errors()[0]


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(page: Browser) -> None:
    """The answer to the first of two recalls comes after that to the second."""
    page.run(
        "window.held = []; window.read = 0; const real = window.fetch;"
        "window.fetch = (...asked) => new Promise((resolve) => window.held.push(async () => {"
        "  const answer = await real(...asked); const text = answer.text.bind(answer);"
        "  answer.text = () => text().finally(() => window.read++); resolve(answer); }))"
    )
    for number in ("3", "7"):
        page.fill(".pane-settings label input", number)
        page.click(".ask [type=submit]")
    assert page.run("return window.held.length") == 2
    page.run("window.held[1]()")
    page.wait(lambda: status(page) == "7 candidates for user ann")
    page.run("window.held[0]()")
    page.wait(lambda: page.run("return window.read") >= 2)
    assert len(page.texts(".merged tbody tr")) == 7
    assert status(page) == "7 candidates for user ann"


def test_a_service_that_starts_is_asked_by_one_timer(page: Browser) -> None:
    """One for each pane would double with every try."""
    page.click(".buttons [type=button]")
    page.wait(lambda: len(page.texts(".pane .merged")) == 2)
    page.run(
        "window.later = []; const timer = window.setTimeout;"
        "window.setTimeout = (act, ms) => ms === 2000 ? window.later.push(act) : timer(act, ms);"
        "window.fetch = async () => new Response('{}', {status: 503})"
    )
    page.click(".ask [type=submit]")
    page.wait(lambda: all(text.startswith("503") for text in page.texts(".pane .error")))
    page.wait(lambda: page.run("return window.later.length"))
    page.run("return window.later[0]()")
    assert page.run("return window.later.length") == 2


def test_a_user_without_a_history(page: Browser, running: Service) -> None:
    show(page, running, "user=nobody&k=5")
    assert "popular items only: no history" in page.texts(".pane h3")[1]
    assert page.texts(".merged .chip") == ["popular"] * 5


def test_by_keyboard_alone(page: Browser) -> None:
    page.press(TAB)
    assert page.run(FOCUSED) == "Skip to the results"
    page.press(ENTER + TAB)  # into the history
    first = history(page)[0]
    assert page.run(FOCUSED).startswith(first)
    page.press(ENTER)
    page.wait(lambda: page.run("return document.querySelector('dialog').open"))
    assert page.texts("#item-title") == [first]
    page.press(ESCAPE)
    page.wait(lambda: not page.run("return document.querySelector('dialog').open"))
    assert page.run(FOCUSED).startswith(first)


def test_every_control_has_a_name(page: Browser) -> None:
    page.click(".interest .item")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    page.press(ESCAPE)
    nodes += page.command("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "spinbutton", "combobox", "link", "heading", "dialog", "region")
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(seen) > 40
    assert not [node for node in seen if not node["name"]["value"]]


@pytest.mark.parametrize("width", [320, 390, 1024, 1440])
def test_nothing_is_wider_than_the_window(page: Browser, width: int) -> None:
    def fits() -> bool:
        shown: int = page.run("return document.documentElement.scrollWidth")
        return shown <= width

    page.resize(width, 900)
    page.wait(fits)
    page.click(".buttons [type=button]")
    page.wait(lambda: len(page.texts(".pane .merged tbody tr")) == 20)
    page.wait(fits)


def test_light_and_dark(page: Browser) -> None:
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    light = page.run(background)
    page.resize(1280, 900, dark=True)
    assert page.run(background) != light


def test_everything_comes_from_the_service(page: Browser, running: Service) -> None:
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = page.run(script)
    assert len(loaded) > 5
    assert all(name.startswith(f"http://127.0.0.1:{running.port}/") for name in loaded)


def test_a_service_with_keys_asks_for_one(
    window: Browser, artifacts: Path, dataset: Dataset, tmp_path: Path
) -> None:
    secret = "a-secret-for-the-explorer"
    environment = {"RECGPT_EXPLORER": "true", "RECGPT_API_KEYS": f"me:admin+read+write:{secret}"}
    store = f"embedded:{tmp_path / 'histories'}"
    with service(artifacts, store, tmp_path, **environment) as running:
        window.resize(1280, 900)
        window.open(f"http://127.0.0.1:{running.port}/explorer#user=ann&k=5")
        window.wait(lambda: "401" in status(window))
        window.fill(".key input", f"{secret}{TAB}")
        window.wait(lambda: window.texts(".merged .chip") == ["popular"] * 5)
        window.click(".curl summary")
        (command,) = window.texts(".curl code")
        assert "$RECGPT_KEY" in command
        assert secret not in command
    window.errors()
