"""The tabs beside the recalls: the index, the map, versions and experiments."""

from pathlib import Path

from browser import ENTER, ESCAPE, Browser
from explored import show
from running_service import Service

from model.data.dataset import Dataset

VIEW = "return document.querySelector('nav [aria-current]').textContent"


def opened(page: Browser, name: str) -> None:
    page.click(f"nav a[href='#{name}']")
    page.wait(lambda: page.run(VIEW).lower() == name)


def test_recall_and_time_by_depth(page: Browser, running: Service) -> None:
    opened(page, "index")
    page.wait(lambda: "of 60 interests" in page.texts("section [role=status]")[0])
    page.wait(
        lambda: page.texts("[aria-label='Measure the index'] [type=submit]") == ["Measure again"]
    )
    quality = running.client.post("/explorer/index?count=8").json()
    rows = [text.split() for text in page.texts(".depths tbody tr")]
    assert [row[0] for row in rows] == [str(depth["lists"]) for depth in quality["depths"]]
    recalls = [float(row[3]) for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.99
    (served,) = [row for row in rows if "recall" in row]
    assert int(served[0]) == next(d["lists"] for d in quality["depths"] if d["served"])
    for chart in ("recallChart", "timeChart"):
        dots = f"return document.querySelectorAll('[x-ref={chart}] .dot').length"
        assert page.run(dots) == len(rows)


def test_a_measurement_can_be_stopped(page: Browser) -> None:
    opened(page, "index")
    page.wait(lambda: page.texts(".depths tbody tr"))
    page.run("document.querySelector('[aria-label=\"Measure the index\"] [type=button]').click()")
    page.wait(
        lambda: page.texts("[aria-label='Measure the index'] [type=submit]") == ["Measure again"]
    )
    page.fill("[aria-label='Measure the index'] input", "5")
    page.click("[aria-label='Measure the index'] [type=submit]")
    page.wait(lambda: page.texts("section [role=status]")[0].count(" 5 best hits of 60 interests"))


def test_history_and_hits_on_the_map(page: Browser, running: Service, dataset: Dataset) -> None:
    opened(page, "map")
    page.wait(lambda: page.run("return document.querySelectorAll('.map .place').length"))
    body = {"user_id": "ann", "k": 10, "interests": 3}
    steps = running.client.post("/explorer/recall", json=body).json()["explanation"]
    hits = {hit["item_id"] for interest in steps["interests"] for hit in interest["hits"]}
    marks = hits | {item["item_id"] for item in steps["history"]}
    assert page.run("return document.querySelectorAll('.map .place').length") == len(marks)
    assert f"Dots: all {dataset.catalogue} items" in page.texts("section [role=status]")[1]
    assert page.texts(".legend summary")[0].split() == ["History", "6"]
    assert len(page.texts(".legend summary")) == 4
    places = "return document.querySelector('.map .place circle').getAttribute('cx')"
    whole = page.run(places)
    page.click(".atlas .buttons button:last-child")
    page.wait(lambda: page.run(places) != whole)


def test_any_item_of_the_map_can_be_opened(page: Browser) -> None:
    opened(page, "map")
    page.wait(lambda: page.run("return document.querySelectorAll('.map .place').length"))
    page.run("document.querySelector('.legend details[open] .item').focus()")
    assert page.run("return document.querySelectorAll('.map .label').length") == 1
    page.press(ENTER)
    page.wait(lambda: page.run("return document.querySelector('dialog').open"))
    title = page.texts("#item-title")[0]
    assert title == page.texts(".legend details[open] .item")[0]
    page.press(ESCAPE)
    # The first dot of the others is named, and opened, where the pointer is.
    script = """
      const map = document.querySelector('.map'), box = map.getBoundingClientRect();
      const [, x, y] = /M([\\d.]+) ([\\d.]+)/.exec(map.querySelector('.others').getAttribute('d'));
      const scale = box.width / map.viewBox.baseVal.width;
      const at = {clientX: box.left + x * scale, clientY: box.top + y * scale, bubbles: true};
      map.dispatchEvent(new MouseEvent(arguments[0], at));
    """
    page.run(script, "mousemove")
    named = page.run("return document.querySelector('.map .label text').textContent")
    page.run(script, "click")
    page.wait(lambda: page.run("return document.querySelector('dialog').open"))
    assert page.texts("#item-title") == [named]


def test_versions_and_experiments_with_their_counts(
    page: Browser, running: Service, artifacts: Path
) -> None:
    for _ in range(2):
        running.recall(user_id="qa")
    opened(page, "versions")
    version = (artifacts / "current").resolve().name
    page.wait(lambda: page.texts(".versions code") == [version])
    assert "served" in page.texts(".versions td")

    def row(arm: str) -> list[str]:
        rows = [text.split("\t") for text in page.texts(".experiments tbody tr")]
        return next(([cell.strip() for cell in row] for row in rows if arm in row[1]), [])

    page.wait(lambda: row("short"))
    assert row("short")[:3] == ["length", "short", "k: 3"]
    assert row("long")[2] == "k: 9, interests: 2"

    def counted() -> bool:
        opened(page, "versions")
        return row("short")[4:7] == ["2", "1", "2"]  # popular items only: there is no history

    page.wait(counted)


def test_two_arms_side_by_side(page: Browser, running: Service) -> None:
    arms = 'user=ann&k=&arm=length/short&compare={"k":"","arm":"length/long"}'
    show(page, running, arms)
    page.wait(lambda: len(page.texts(".pane .merged tbody tr")) == 3 + 9)
    notes = page.texts(".pane h3 small")
    assert any("experiment length: short" in note for note in notes)
    assert any("experiment length: long" in note for note in notes)
    page.click(".curl summary")
    assert "explorer/recall?arm=length%2Fshort" in page.texts(".curl code")[0]


def test_a_view_can_be_bookmarked(page: Browser, running: Service) -> None:
    opened(page, "map")
    address = page.run("return location.href")
    assert "view=map" in address
    page.open("about:blank")
    page.open(address)
    page.wait(lambda: page.run("return document.querySelectorAll('.map .place').length"))
