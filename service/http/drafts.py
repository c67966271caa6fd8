"""Answers to recalls of interleaved experiments: one list, drafted from the lists of both arms.

The field `team` of a candidate names the arm that picked it, and ends the candidate's line, so that
the pages of a recall go on with the same draft. Two arms of different versions number their items
differently, so the draft compares ids, and a row is of the catalogue of the team's version.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from service.experiments.assignment import Assignment
from service.experiments.team_draft import team_draft
from service.http.schemas import RecallRequest
from service.recall.item_metadata import candidate_lines
from service.recall.served_bundle import ServedBundle
from service.recall.types import EncodedCandidates
from service.waiting import Answer

MAX_LOGGED = 200
"""Candidates of an answer whose teams are logged, from the first on."""


class Side(NamedTuple):
    """An arm of a draft."""

    arm: Assignment
    request: RecallRequest
    """The request with the fields of this arm, and of the user's other arms."""


class Draft(NamedTuple):
    """A recall that is to be answered by a draft."""

    sides: tuple[Side, Side]
    """The first is the control."""
    arms: list[Assignment]
    """The user's arms in all experiments; the interleaved one has the arm `interleaved`."""

    def arms_of(self, side: Side) -> Iterable[Assignment]:
        """Yields the arms that choose the version of a side."""
        yield side.arm
        yield from self.arms

    def is_of(self, answers: Sequence[Answer]) -> bool:
        """Returns whether each side is answered by the version of its arm.

        An arm's version can be given up between the question and the answer.
        """
        pairs = zip(self.sides, answers, strict=True)
        return all(side.arm.settings.version in (None, one.version) for side, one in pairs)

    def of(self, answers: Sequence[Answer], seed: str) -> Answer:
        """Returns the draft of the answers to both sides; its coins depend on the seed only.

        All else, such as the version, is that of the control's answer; but its filter and rules are
        not exhausted if the draft has k items.
        """
        found, flips = [answer.found for answer in answers], random.Random(seed)
        lines = [candidate_lines(one.json) for one in found]
        ids = [[_id_of(line) for line in own] for own in lines]
        picks = team_draft((ids[0], ids[1]), self.sides[0].request.k, lambda: flips.random() < 0.5)
        endings = [_ending(side.arm.arm) for side in self.sides]
        drafted = [lines[team][at][:-1] + endings[team] for team, at in picks]
        rows = np.array([found[team].rows[at] for team, at in picks], dtype=np.int64)
        both = replace(found[0], json=b"[%b]" % b",\n".join(drafted), rows=rows)
        if len(picks) == self.sides[0].request.k:
            both = _not_exhausted(both)
        reason = answers[0].degraded_reason or answers[1].degraded_reason
        return replace(answers[0], found=both, degraded_reason=reason)

    def bundles(self, answers: Sequence[Answer]) -> dict[str, ServedBundle]:
        """Returns the bundle of each team; none if both are of the same one."""
        pairs = zip(self.sides, answers, strict=True)
        found = {side.arm.arm: one.bundle for side, one in pairs if one.bundle}
        return found if len({one.version for one in found.values()}) > 1 else {}


def teams_of(candidates: bytes) -> str:
    """Returns the JSON of the items of each team, by its name; empty without teams."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in from_json(candidates)[:MAX_LOGGED]:
        if "team" in one:
            found[one["team"]].append(one["item_id"])
    return to_json(found).decode() if found else ""


def with_metadata_of_teams(
    candidates: bytes, rows: NDArray[np.integer[Any]], bundles: Mapping[str, ServedBundle]
) -> bytes:
    """Returns drafted candidates with a field `metadata` each, as the team's version has it."""
    lines = candidate_lines(candidates)
    for team, bundle in bundles.items():
        own = [at for at, line in enumerate(lines) if line.endswith(_ending(team))]
        picked = b"[%b]" % b",\n".join([lines[at] for at in own])
        complete = candidate_lines(bundle.items.added_to(picked, rows[own]))
        for at, line in zip(own, complete, strict=True):
            lines[at] = line
    return b"[%b]" % b",\n".join(lines)


def _not_exhausted(found: EncodedCandidates) -> EncodedCandidates:
    """Returns candidates that are as many as were asked for."""
    return replace(
        found,
        filter=found.filter and found.filter._replace(exhausted=False),
        variety=found.variety and found.variety._replace(exhausted=False),
    )


def _id_of(line: bytes) -> bytes:
    """Returns the beginning of a candidate's line, up to the end of the item's id."""
    return line.partition(b',"score":')[0]  # inside of a JSON string, the quote would be escaped


def _ending(team: str) -> bytes:
    """Returns the end of the lines of a team's candidates. Names of arms need no escapes."""
    return b',"team":"%b"}' % team.encode()
