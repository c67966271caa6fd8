"""A Redis that is gone, and one that is slow, behind a proxy that makes it so."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.reliability.clients import Heard, Load
from loadtest.reliability.instance import fill, running, users
from loadtest.reliability.proxy import Proxy
from loadtest.reliability.report import Bar, Figures
from loadtest.results import say
from loadtest.serving.servers import redis_server

RATE = 100.0
BEFORE_S, AFTER_S = 3.0, 6.0
SLOW_S = 0.5
KNOWN_USERS = 200  # so few that every one is answered before the fault
FAULTS = ("gone", "slow", "cut in a reply")


def measure(artifacts: Path, seconds: float) -> Figures:
    """Returns the figures of each fault, which lasts for `seconds`."""
    with redis_server() as store:
        fill(store)
        redis_port = urlsplit(store).port
        assert redis_port
        with Proxy(redis_port) as proxy, running(artifacts, proxy.url) as instance:
            figures = {}
            for fault in FAULTS:
                lasting = seconds if fault != FAULTS[-1] else min(seconds, 5.0)
                figures[fault] = asyncio.run(_fault(instance.port, proxy, fault, lasting))
                say(f"Redis {fault}: {dict(figures[fault]['statuses'])}")
    return figures


async def _fault(port: int, proxy: Proxy, fault: str, seconds: float) -> Figures:
    async with Load(lambda: [port], users()[:KNOWN_USERS], RATE) as load:
        await asyncio.sleep(BEFORE_S)
        begin = load.now
        proxy.refuse = fault == "gone"
        proxy.delay_s = SLOW_S if fault == "slow" else 0.0
        proxy.cut = fault == "cut in a reply"
        if proxy.refuse:
            proxy.hang_up()
        await asyncio.sleep(seconds)
        end = load.now
        proxy.refuse, proxy.delay_s, proxy.cut = False, 0.0, False
        await asyncio.sleep(AFTER_S)
    during, after = load.between(begin, end), load.between(end, float("inf"))
    flagged = [one for one in during if one.reason == "store_unavailable"]
    late = [one.at - end for one in after if one.reason]
    return {
        "seconds": seconds,
        "statuses": Counter(str(one.status) for one in load.heard),
        "answers_during": len(during),
        "flagged_during": len(flagged),
        "wrong": _wrong(load.between(0, begin), during + after),
        "normal_after_s": max(late, default=0.0),
        "longest_answer_s": max(one.seconds for one in load.heard),
    }


def _wrong(before: list[Heard], later: list[Heard]) -> int:
    """Returns the number of unflagged answers unlike those that the same user had before.

    Half of the items may differ: a query's scores depend on its batch in the last digit.
    """
    known = {one.user: set(one.items) for one in before if one.status == 200 and not one.reason}
    plain = [one for one in later if one.status == 200 and not one.reason and one.user in known]
    return sum(2 * len(known[one.user] & set(one.items)) < len(one.items) for one in plain)


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a fault of Redis has to show."""
    for fault, found in figures.items():
        name = f"Redis {fault} for {found['seconds']:g} s"
        statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(found["statuses"].items()))
        yield Bar(f"{name}: answers", statuses, "all 200", set(found["statuses"]) == {"200"})
        yield Bar(
            f"{name}: answers without a history that do not say so, or of another user's",
            f"{found['wrong']} of {found['answers_during']} ({found['flagged_during']} say so)",
            "0",
            not found["wrong"],
        )
        after = found["normal_after_s"]
        yield Bar(
            f"{name}: the last degraded answer after its end", f"{after:.1f} s", "≤ 3 s", after <= 3
        )
