"""The items of a bundle with the changes that the store holds."""

import json
from pathlib import Path

import polars as pl
import pytest

from model.artifact.id_table import IdTable, write_ids
from model.kinds import Kind
from service.recall.live_items import LiveItems
from service.recall.metadata_encoder import encode_metadata

KINDS: dict[str, Kind] = {
    "title": "text",
    "price": "number",
    "since": "time",
    "stock": "flag",
    "tags": "categories",
}


@pytest.fixture
def live(tmp_path: Path) -> LiveItems:
    items = pl.DataFrame(
        {
            "item_id": ["a", "b"],
            "title": ["A", "B"],
            "price": [1.5, None],
            "since": ["2026-01-02", None],
            "stock": [True, None],
        }
    )
    write_ids(tmp_path, "item", items["item_id"])
    return LiveItems(IdTable(tmp_path, "item"), KINDS, encode_metadata(items))


def test_values_take_the_place_of_the_bundles(live: LiveItems) -> None:
    update = live.take(None, {"a": {"price": "3", "since": "1970-01-02", "title": "New"}})
    assert update == (None, {"a": {"price": 3, "since": 86_400}}, None)  # no filter reads a title
    now = {"title": "New", "price": 3, "since": "1970-01-02", "stock": True}
    assert live.attributes("a") == json.loads(live.metadata_of(0)) == now
    assert live.changed("a") == ["price", "since", "title"]
    assert live.attributes("b") == json.loads(live.metadata_of(1)) == {"title": "B"}


def test_a_removed_field_brings_the_bundles_value_back(live: LiveItems) -> None:
    live.take(None, {"a": {"price": "3", "stock": "no"}, "b": {"price": "4"}})
    update = live.take(None, {"a": {"stock": "no"}, "b": {}})
    assert update.changes == {"a": {"price": 1.5, "stock": False}, "b": {"price": None}}
    assert live.changed("a") == ["stock"]
    assert live.changed("b") == []
    assert live.attributes("b") == {"title": "B"}


def test_unusable_values_are_ignored_and_told(
    live: LiveItems, caplog: pytest.LogCaptureFixture
) -> None:
    update = live.take(None, {"a": {"price": "cheap", "prise": "3", "stock": "yes"}})
    assert update.changes == {"a": {"stock": True}}
    reasons = ["price is no finite number", "prise is no attribute of the bundle"]
    assert live.ignored("a") == reasons
    assert live.ignored_count == 2
    assert "i:a: price is no finite number" in caplog.text
    live.take(None, {"a": {"price": "3"}})
    assert live.ignored("a") == []
    assert live.ignored_count == 0


def test_items_that_the_bundle_lacks_are_counted(live: LiveItems) -> None:
    update = live.take(frozenset({"a", "x", "y"}), {"x": {"price": "3"}})
    assert update.hidden is not None
    assert set(update.hidden) == {"a", "x", "y"}
    assert update.changes == {}
    assert live.unknown_hidden == 2
    live.take(frozenset({"x"}), {})
    assert live.unknown_hidden == 1
    assert "x" not in live
    assert "a" in live
