"""Instances that are replaced one by one under load, behind a balancer that is slow to notice.

    start the next one ─► the balancer adds it ─► SIGTERM to the last ─► 2 s ─► it is taken out

In the lag the balancer still sends requests to the instance that is going down, on connections that
it keeps and on new ones.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadtest.reliability.clients import Load
from loadtest.reliability.instance import Instance, fill, users
from loadtest.reliability.report import Bar, Figures
from loadtest.results import say
from loadtest.serving.servers import redis_server

RATE = 100.0
LAG_S = 2.0
GRACE_S = 3
OPTIONS = ("--grace-seconds", str(GRACE_S))  # the last of an option counts


def measure(artifacts: Path, rounds: int) -> Figures:
    """Returns the figures of `rounds` replacements."""
    with redis_server() as store:
        fill(store)
        return asyncio.run(_replace(artifacts, store, rounds))


async def _replace(artifacts: Path, store: str, rounds: int) -> Figures:
    last = await _start(artifacts, store)
    ports, exits = [last.port], Counter[int]()
    try:
        async with Load(lambda: ports, users(), RATE) as load:
            for number in range(rounds):
                following = await _start(artifacts, store)
                ports.append(following.port)
                last, going = following, last
                going.popen.send_signal(signal.SIGTERM)
                await asyncio.sleep(LAG_S)
                ports.remove(going.port)
                exits[await asyncio.to_thread(going.popen.wait, 60)] += 1
                lost = sum(one.status == 0 for one in load.heard)
                say(f"SIGTERM {number + 1} of {rounds}: {lost} of {len(load.heard)} lost")
    finally:
        last.end()
    return {
        "rounds": rounds,
        "lag_s": LAG_S,
        "grace_s": GRACE_S,
        "exit_codes": {str(code): count for code, count in exits.items()},
        "statuses": Counter(str(one.status) for one in load.heard),
        "longest_answer_s": max(one.seconds for one in load.heard),
    }


async def _start(artifacts: Path, store: str) -> Instance:
    instance = Instance(artifacts, store, *OPTIONS)
    await asyncio.to_thread(instance.wait_until_ready)
    return instance


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a replacement of instances has to show."""
    name = f"{figures['rounds']} x SIGTERM, {figures['lag_s']:g} s until the balancer notices"
    statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(figures["statuses"].items()))
    yield Bar(f"{name}: answers", statuses, "all 200", set(figures["statuses"]) == {"200"})
    codes = ", ".join(f"{n} x {code}" for code, n in figures["exit_codes"].items())
    yield Bar(f"{name}: exit codes", codes, "all 0", set(figures["exit_codes"]) == {"0"})
