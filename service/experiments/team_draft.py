"""Team draft: two lists become one, and each of its items belongs to the list that picked it.

In each round both lists pick their best item that is not in the draft yet; a coin says which one
picks first. So both have the same chances at every position, and a user who takes more items of one
team prefers that list. Source: Radlinski, Kurup and Joachims, CIKM 2008.

Front ends load this module, so it imports no library that computes.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

INTERLEAVED = "interleaved"
"""The arm of a user who is shown the draft of both arms."""


class Pick(NamedTuple):
    """An item of a draft."""

    team: int
    """0 or 1: the list that picked it."""
    position: int
    """Its position in that list."""


def team_draft(
    lists: tuple[Sequence[Hashable], Sequence[Hashable]], length: int, coin: Callable[[], bool]
) -> list[Pick]:
    """Returns up to `length` picks; `coin` says for each round whether the second list begins.

    If a list has no further item, the other one goes on alone.
    """
    taken: set[Hashable] = set()
    positions = [0, 0]
    picks: list[Pick] = []
    while len(picks) < length:
        before = len(picks)
        second_begins = coin()
        for team in (1, 0) if second_begins else (0, 1):
            items, at = lists[team], positions[team]
            while at < len(items) and items[at] in taken:
                at += 1
            positions[team] = at + 1
            if at < len(items) and len(picks) < length:
                taken.add(items[at])
                picks.append(Pick(team, at))
        if len(picks) == before:
            break
    return picks
