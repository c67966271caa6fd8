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

RATE = 50.0  # beside the start of the next instance
LAG_S = 2.0
GRACE_S = 3
OPTIONS = ("--grace-seconds", str(GRACE_S))  # the last of an option counts


def measure(artifacts: Path, rounds: int) -> Figures:
    """Returns the figures of `rounds` replacements."""
    with redis_server() as store:
        fill(store)
        return asyncio.run(_replace(artifacts, store, rounds))


async def _replace(artifacts: Path, store: str, rounds: int) -> Figures:
    instances: list[Instance] = []

    async def start() -> Instance:
        instances.append(Instance(artifacts, store, *OPTIONS))
        await asyncio.to_thread(instances[-1].wait_until_ready)
        return instances[-1]

    ports, exits = list[int](), Counter[int]()
    try:
        going = await start()
        ports.append(going.port)
        starting = asyncio.create_task(start())
        async with Load(lambda: ports, users(), RATE) as load:
            for number in range(rounds):
                following = await starting
                ports.append(following.port)
                if number + 1 < rounds:
                    starting = asyncio.create_task(start())
                going.popen.send_signal(signal.SIGTERM)
                await asyncio.sleep(LAG_S)
                ports.remove(going.port)
                exits[await asyncio.to_thread(going.popen.wait, 60)] += 1
                lost = sum(one.status == 0 for one in load.heard)
                say(f"SIGTERM {number + 1} of {rounds}: {lost} of {len(load.heard)} lost")
                going = following
    finally:
        for instance in instances:
            instance.end()
    return {
        "rounds": rounds,
        "lag_s": LAG_S,
        "grace_s": GRACE_S,
        "exit_codes": {str(code): count for code, count in exits.items()},
        "statuses": Counter(str(one.status) for one in load.heard),
        "longest_answer_s": max(one.seconds for one in load.heard),
    }


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a replacement of instances has to show."""
    name = f"{figures['rounds']} x SIGTERM, {figures['lag_s']:g} s until the balancer notices"
    statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(figures["statuses"].items()))
    none_lost = set(figures["statuses"]) <= {"200", "429"}
    yield Bar(f"{name}: answers", statuses, "200, or 429 while an instance starts", none_lost)
    codes = ", ".join(f"{n} x {code}" for code, n in figures["exit_codes"].items())
    yield Bar(f"{name}: exit codes", codes, "all 0", set(figures["exit_codes"]) == {"0"})
