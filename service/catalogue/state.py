"""The state of the items in the store, as a front end knows it, whatever bundle it serves."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class ItemsChange(NamedTuple):
    """The difference between two states."""

    hidden: frozenset[str] | None
    """All hidden items; None: as before."""
    texts: Mapping[str, Mapping[str, str]]
    """Items whose hash has changed, with all of its fields."""
    popular: Sequence[str] | None = None
    """The items that are popular now, the most popular first; None: as before."""


class CatalogueState:
    """Hidden items and changed attributes, and those who are told when they change."""

    def __init__(self) -> None:
        self.hidden: frozenset[str] = frozenset()
        self.texts: dict[str, Mapping[str, str]] = {}
        """The fields of each item that has a hash, as text."""
        self.popular: Sequence[str] = ()
        """The items that are popular now, the most popular first."""
        self._listeners: list[Callable[[ItemsChange], None]] = []

    @property
    def whole(self) -> ItemsChange:
        """The difference from a bundle without changes."""
        return ItemsChange(self.hidden, self.texts, self.popular)

    def listen(self, listener: Callable[[ItemsChange], None]) -> None:
        """Has a listener told of every change from now on."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[ItemsChange], None]) -> None:
        """Tells a listener no more."""
        self._listeners.remove(listener)

    def change(self, hidden: frozenset[str] | None, texts: Mapping[str, Mapping[str, str]]) -> None:
        """Takes another set of hidden items (None: as before), and the fields of some items."""
        hidden = None if hidden == self.hidden else hidden
        texts = {item: own for item, own in texts.items() if own != self.texts.get(item, {})}
        if hidden is None and not texts:
            return
        if hidden is not None:
            self.hidden = hidden
        for item, own in texts.items():
            if own:
                self.texts[item] = own
            else:
                self.texts.pop(item, None)
        self._tell(ItemsChange(hidden, texts))

    def rank(self, popular: Sequence[str]) -> None:
        """Takes another order of the items that are popular now."""
        if popular != self.popular:
            self.popular = popular
            self._tell(ItemsChange(None, {}, popular))

    def _tell(self, change: ItemsChange) -> None:
        for listener in list(self._listeners):
            listener(change)
