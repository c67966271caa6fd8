"""An engine that is killed or stopped under load, with and without one on standby."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadtest.reliability.clients import Load
from loadtest.reliability.instance import Instance, fill, running, users
from loadtest.reliability.report import Bar, Figures
from loadtest.results import say
from loadtest.serving.servers import ENGINE, redis_server

RATE = 100.0
BEFORE_S, AFTER_S, PATIENCE_S = 2.0, 3.0, 60.0
HARMS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


def measure(artifacts: Path, standbys: tuple[bool, ...] = (False, True)) -> Figures:
    """Returns the figures of each harm, first without an engine on standby."""
    figures: Figures = {}
    with redis_server() as store:
        fill(store)
        for standby in standbys:
            options = ["--standby"] if standby else []
            for name, harm in HARMS.items():  # after a second end the supervisor would pause
                key = f"{name}{' with standby' if standby else ''}"
                with running(artifacts, store, *options) as instance:
                    figures[key] = asyncio.run(harmed(instance, harm, standby))
                say(f"engine {key}: ready after {figures[key]['ready_s']:.1f} s")
    return figures


async def harmed(instance: Instance, harm: signal.Signals, standby: bool) -> Figures:
    """Returns what clients and probes see while an engine is replaced."""
    while len(instance.children(ENGINE)) < 1 + standby or not await _ready(instance):
        await asyncio.sleep(0.2)
    if standby:
        await _loaded(instance)
    memory_mb = instance.resident_mb(ENGINE)
    async with Load(lambda: [instance.port], users(), RATE) as load:
        await asyncio.sleep(BEFORE_S)
        engine = instance.children(ENGINE)[0]
        engine.send_signal(harm)
        begun, unready_s = time.perf_counter(), None
        while engine.is_running():  # until the supervisor has noticed
            if unready_s is None and not await _ready(instance):
                unready_s = time.perf_counter() - begun
            await asyncio.sleep(0.01)
        while not await _ready(instance) and time.perf_counter() - begun < PATIENCE_S:
            unready_s = unready_s or time.perf_counter() - begun
            await asyncio.sleep(0.01)
        ready_s = time.perf_counter() - begun
        await asyncio.sleep(AFTER_S)
    return {
        "engines_mb": memory_mb,
        "unready_s": unready_s,
        "ready_s": ready_s,
        "statuses": Counter(str(one.status) for one in load.heard),
        "longest_answer_s": max(one.seconds for one in load.heard if one.status == 200),
    }


async def _ready(instance: Instance) -> bool:
    return await asyncio.to_thread(instance.status, "/readyz") == 200


async def _loaded(instance: Instance) -> None:
    """Waits until the engine on standby has used no time for 3 s, for it has loaded then."""
    standby, used, quiet_s = instance.children(ENGINE)[-1], 0.0, 0
    while quiet_s < 3:
        await asyncio.sleep(1)
        now = sum(standby.cpu_times()[:2])
        quiet_s = quiet_s + 1 if 1 < now == used else 0
        used = now


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a replacement has to show."""
    for name, found in figures.items():
        ready = found["ready_s"]
        unready = found["unready_s"]
        seen = "never seen unready" if unready is None else f"unready after {unready:.2f} s"
        text = f"{ready:.1f} s, {seen}"
        text += f"; engines use {found['engines_mb']:.0f} MiB"
        yield Bar(f"engine {name}: a new one answers after", text, "≤ 3 s", ready <= 3)
        statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(found["statuses"].items()))
        fine = set(found["statuses"]) <= {"200", "504", "429"}
        yield Bar(f"engine {name}: answers", statuses, "200, 504 after the deadline, or 429", fine)
