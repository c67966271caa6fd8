"""The operations on one item: its attributes as they are now, and whether it is hidden."""

from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from model.ids import MAX_ID_LENGTH
from service.catalogue.store import MAX_HIDDEN, CatalogueStore, KeyUnusable, Texts
from service.catalogue.watcher import CatalogueWatcher
from service.errors import FieldError, Invalid, StoreConflict, StoreFailed, UnknownItem
from service.history.store import StoreUnavailable
from service.http.bodies import json_response, read_body
from service.http.live_versions import LiveVersions
from service.http.problems import MAX_LISTED
from service.recall.attribute_values import text_of
from service.recall.served_bundle import ServedBundle

MAX_FIELDS = 64
"""Attributes that one request changes."""

ItemId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, description="id of the item")]


class ItemPatch(RootModel[Annotated[dict[str, Any], Field(min_length=1, max_length=MAX_FIELDS)]]):
    """New values of attributes; null brings the value of the bundle back."""

    model_config = ConfigDict(json_schema_extra={"example": {"price": 3.99, "in_stock": True}})


class ItemResponse(BaseModel):
    """An item as it is now."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "item_id": "302",
                "version": "shop-20261127-101500-1a2b3c4d",
                "hidden": False,
                "attributes": {"title": "L.A. Confidential", "price": 3.99, "in_stock": True},
                "changed": ["in_stock", "price"],
                "ignored": [],
            }
        }
    )

    item_id: str
    version: str = Field(description="version of the bundle that has the item")
    hidden: bool = Field(description="whether no answer holds the item")
    attributes: dict[str, Any] = Field(description="its attributes, without those that are null")
    changed: list[str] = Field(description="attributes whose value is not the bundle's")
    ignored: list[str] = Field(
        description="values in the store that are ignored, and why: of unknown attributes, or of "
        "another kind"
    )


class ItemRoutes:
    """The operations on one item. Every front end and the engine know of a change in a second."""

    def __init__(
        self,
        live: LiveVersions,
        items: CatalogueStore,
        watcher: CatalogueWatcher,
        body_limit: int,
    ) -> None:
        self._live = live
        self._items = items
        self._watcher = watcher
        self._body_limit = body_limit

    async def read(self, item_id: ItemId) -> Response:
        """Returns the attributes of an item as they are now, and whether it is hidden."""
        return self._answer(item_id, self._bundle_with(item_id))

    async def hide(self, item_id: ItemId) -> Response:
        """Hides an item: no answer that is begun a second later holds it, also of a new version.

        An item that is hidden already stays so.
        """
        bundle = self._bundle_with(item_id)
        hidden = self._watcher.state.hidden
        if item_id not in hidden and len(hidden) >= MAX_HIDDEN:
            raise StoreConflict(
                f"{MAX_HIDDEN:,} items are hidden, and no more can be: take such items out of the "
                "bundle, or filter by an attribute"
            )
        await self._store(self._items.set_hidden(item_id, True))
        return self._answer(item_id, bundle)

    async def show(self, item_id: ItemId) -> Response:
        """Shows an item again, if it was hidden."""
        bundle = self._bundle_with(item_id)
        await self._store(self._items.set_hidden(item_id, False))
        return self._answer(item_id, bundle)

    async def change(self, item_id: ItemId, request: Request) -> Response:
        """Changes attributes of an item, without a new bundle.

        They keep their new values until they are changed again, also in a new version; null brings
        back the value that the bundle has.
        """
        bundle = self._bundle_with(item_id)
        patch = (await read_body(request, ItemPatch, self._body_limit)).root
        texts = _checked(patch, bundle)
        removed = [name for name, value in patch.items() if value is None]
        await self._store(self._items.set_texts(item_id, texts, removed))
        return self._answer(item_id, bundle)

    def _bundle_with(self, item: str) -> ServedBundle:
        """Returns a bundle with this item, the served one if that has it.

        Raises UnknownItem if there is none.
        """
        served = self._live.of(()).bundle
        for bundle in self._live.bundles():
            if item in bundle.items:
                return bundle
        raise UnknownItem(f"the served bundle {served.version} has no item of this id")

    async def _store(self, writing: Awaitable[None]) -> None:
        """Writes, and waits until this front end has told the engine."""
        try:
            await writing
            await self._watcher.look()
        except KeyUnusable as error:
            raise StoreConflict(str(error)) from None
        except StoreUnavailable:
            raise StoreFailed("the store is unavailable: send the same request again") from None

    def _answer(self, item: str, bundle: ServedBundle) -> Response:
        unusable = self._watcher.unusable.get(item)
        answer = ItemResponse(
            item_id=item,
            version=bundle.version,
            hidden=item in self._watcher.state.hidden,
            attributes=bundle.items.attributes(item),
            changed=bundle.items.changed(item),
            ignored=[unusable] if unusable else bundle.items.ignored(item),
        )
        return json_response(answer.model_dump_json().encode())


def _checked(patch: dict[str, Any], bundle: ServedBundle) -> Texts:
    """Returns the texts of new values. Raises Invalid that names every field that is wrong."""
    texts, wrong = Texts(), list[FieldError]()
    for name, value in patch.items():
        kind = bundle.items.kinds.get(name)
        if kind is None:
            known = ", ".join(bundle.items.kinds) or "none"
            wrong.append(FieldError(name[:40], f"is no attribute; the bundle has: {known}"))
        elif value is not None:
            try:
                texts[name] = text_of(kind, value)
            except ValueError as error:
                wrong.append(FieldError(name, f"{error} (kind: {kind})"))
    if wrong:
        detail = "; ".join(f"{field.where}: {field.problem}" for field in wrong[:3])
        raise Invalid(f"{detail}. Nothing was changed", wrong[:MAX_LISTED])
    return texts
