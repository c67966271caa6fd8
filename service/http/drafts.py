"""Answers to recalls of interleaved experiments: one list, drafted from the lists of both arms.

The field `team` of a candidate names the arm that picked it. It is part of the candidate's line, so
that the pages of a recall go on with the same draft.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydantic_core import from_json, to_json

from service.experiments.assignment import Assignment
from service.experiments.team_draft import team_draft
from service.http.schemas import RecallRequest
from service.recall.types import EncodedCandidates
from service.waiting import Answer

MAX_LOGGED = 200
"""Candidates of an answer whose teams are logged, from the first on."""


class Draft(NamedTuple):
    """A recall that is to be answered by a draft."""

    teams: tuple[str, str]
    """The two arms; the first is the control."""
    sides: tuple[RecallRequest, RecallRequest]
    """The request with the fields of each of them."""
    arms: list[Assignment]
    """The user's arms in all experiments; the interleaved one has the arm `interleaved`."""

    def of(self, answers: Sequence[Answer], seed: str) -> Answer:
        """Returns the draft of the answers to both sides; its coins depend on the seed only."""
        found, flips = [answer.found for answer in answers], random.Random(seed)
        picks = team_draft(
            (found[0].rows.tolist(), found[1].rows.tolist()),
            self.sides[0].k,
            lambda: flips.random() < 0.5,
        )
        lines = [_lines(one) for one in found]
        endings = [b',"team":"%b"}' % team.encode() for team in self.teams]
        drafted = [lines[team][at][:-1] + endings[team] for team, at in picks]
        rows = np.array([found[team].rows[at] for team, at in picks], dtype=np.int64)
        both = replace(found[0], json=b"[%b]" % b",\n".join(drafted), rows=rows)
        return replace(answers[0], found=both)


def teams_of(candidates: bytes) -> str:
    """Returns the JSON of the items of each team, by its name; empty without teams."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in from_json(candidates)[:MAX_LOGGED]:
        if "team" in one:
            found[one["team"]].append(one["item_id"])
    return to_json(found).decode() if found else ""


def _lines(found: EncodedCandidates) -> list[bytes]:
    return found.json[1:-1].split(b",\n") if len(found.rows) else []
