"""Checks of the store of histories. Nothing is written: every key belongs to the empty user id.

Rights are asked for by commands that change nothing: reading a list that is missing, and the
script of events without an event. A transaction tells of the other commands: Redis checks each when
it is queued, and the transaction is discarded. A user without the right to MULTI is not asked.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from service.doctor.embedded_store import check_embedded
from service.doctor.findings import Finding, Level, ok, problem, warning
from service.history.events import (
    APPEND,
    APPEND_SHA,
    Retention,
    append_arguments,
    ids_key,
)
from service.history.health import words_of
from service.history.redis_client import close_client, redis_client
from service.history.redis_url import is_redis, parse_redis_url

KEY = "h:"
"""The history of the empty user id, which no event can have."""
QUEUED = (("LPUSH", KEY, ""), ("RPOP", KEY), ("DEL", KEY), ("EVALSHA", APPEND_SHA, "0"))
"""Commands whose right is asked for in a transaction that is discarded."""
SECONDS = 5.0
"""Time limit of all checks of a store."""
SLOW_SECONDS = 0.2
"""Default of --store-timeout-ms: a slower answer counts as none."""
CLOCK_SECONDS = 5.0
"""Difference of two clocks that is worth a warning."""

RIGHTS = (
    "let the Redis user run LRANGE, LPUSH, LTRIM, LINDEX, RPOP, EXPIRE, DEL, EVAL and EVALSHA "
    "on h:* and e:*, and on o:* if a type of events is an offer"
)
PASSWORD = "check user and password in --store; write %XX for their special characters"
PRIMARY = "name the primary in --store"
NO_CLUSTER = "this is a node of a cluster: write redis+cluster:// in --store"
FULL = "Redis is full: raise maxmemory"
ADVICE = {
    "no permission": RIGHTS,
    "noperm": RIGHTS,
    "authentic": PASSWORD,
    "wrongpass": PASSWORD,
    "noauth": PASSWORD,
    "readonly": PRIMARY,
    "masterdown": PRIMARY,
    "link with master is down": PRIMARY,
    "moved": NO_CLUSTER,
    "clusterdown": NO_CLUSTER,
    "loading": "Redis still reads its data: wait, and ask again",
    "misconf": "Redis cannot save to its disk and refuses to write: free space there",
    "outofmemory": FULL,
    "oom": FULL,
    "busy": "a script blocks Redis: wait, or SCRIPT KILL",
    "db index": "use a database that Redis has: the number behind the slash in --store",
    "wrongtype": f"delete the key {KEY!r}, which no history can have",
    "unknown command": "name a Redis that has this command under its own name",
}
"""A part of the words of an error in lower case, and what to do; the first that fits is taken."""
UNREACHABLE = "check host, port, TLS (rediss://) and firewall, and whether Redis runs"

EVICTION = {
    "allkeys": "histories are lost when memory is full",
    "volatile": "ids of recent events are lost when memory is full, so that an event that is sent "
    "again can be stored twice",
}


def check_store(url: str) -> list[Finding]:
    """Checks the store at a URL of `--store`."""
    if url.startswith("embedded:"):
        return [check_embedded(url.removeprefix("embedded:"))]
    if not is_redis(url):
        return [problem("store", "--store: give redis://host:port/db or embedded:PATH")]
    try:
        client = redis_client(url, 1, SECONDS)
    except ValueError as error:  # without the password
        return [problem("store", str(error))]
    return asyncio.run(_check_redis(client, _place(url)))


async def _check_redis(client: Any, place: str) -> list[Finding]:
    """Checks reading first: if that fails, nothing else is of interest."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(SECONDS):
            found.append(await _check_reading(client, place))
            if found[0].level is not Level.PROBLEM:
                found.append(await _check_writing(client))
                if not isinstance(client, RedisCluster):
                    found += await _check_server(client)
                    found.append(await _check_clock(client))
    except TimeoutError:
        found.append(problem("store", f"{place} does not answer within {SECONDS} s: {UNREACHABLE}"))
    finally:
        await close_client(client)
    return found


async def _check_reading(client: Any, place: str) -> Finding:
    try:
        await client.lrange(KEY, 0, 0)
        start = time.perf_counter()  # the first command also connected
        await client.lrange(KEY, 0, 0)
        seconds = time.perf_counter() - start
    except (RedisError, OSError) as error:
        return _refused("store", f"histories cannot be read from {place}", error)
    if seconds > SLOW_SECONDS:
        text = f"{place} answers after {seconds * 1000:.0f} ms, more than --store-timeout-ms (200)"
        return warning("store", f"{text}: use a nearer Redis, or raise the limit")
    return ok("store", f"histories can be read from {place}, {seconds * 1000:.1f} ms")


async def _check_writing(client: Any) -> Finding:
    """Runs the script of events without an event, and queues the commands that it would run."""
    subject, text = "store: events", "events cannot be stored"
    try:
        arguments = append_arguments(1, Retention(days=1), 0.0, [])
        await client.eval(APPEND, 2, KEY, ids_key(KEY), *arguments)
    except (RedisError, OSError) as error:
        return _refused(subject, text, error)
    refusal = None if isinstance(client, RedisCluster) else await _queue(client, QUEUED)
    return _refused(subject, text, refusal) if refusal else ok(subject, "events can be stored")


async def _queue(client: Any, commands: Sequence[Sequence[str]]) -> Exception | None:
    """Returns the first error of commands that are queued in a transaction and then discarded.

    Outside of a transaction the commands would run. So they are sent only after MULTI succeeded,
    and never again over another connection.
    """
    async with client.client() as single:  # keeps one connection
        connection = single.connection
        connection.retry = Retry(NoBackoff(), 0)
        try:
            await single.execute_command("MULTI")
        except ResponseError:  # the service does without it, except for `recgpt history load`
            return None
        try:
            for command in commands:
                await single.execute_command(*command)
        except RedisError as error:
            return error
        finally:
            await connection.disconnect()  # Redis discards the transaction
    return None


async def _check_server(client: Any) -> list[Finding]:
    """Checks version, mode, role and eviction."""
    try:
        about = await client.info()
    except (RedisError, OSError) as error:
        text = f"INFO is refused ({words_of(error)}), so that mode, role and eviction are unknown"
        return [warning("store: server", f"{text}: let the Redis user run INFO")]
    version, mode = about.get("redis_version", "?"), about.get("redis_mode", "standalone")
    return [_mode(version, mode), _role(about), _eviction(about)]


def _mode(version: str, mode: str) -> Finding:
    subject, text = "store: mode", f"Redis {version}, {mode}"
    if mode == "sentinel":
        return problem(subject, f"{text}: it holds no histories; name the primary that it watches")
    if mode == "cluster":
        advice = (
            "only this node is asked, and keys of others are refused: use a Redis with all keys"
        )
        return warning(subject, f"{text}: {advice}")
    return ok(subject, text)


def _role(about: dict[str, Any]) -> Finding:
    subject = "store: role"
    if about.get("role") != "slave":
        replicas = about.get("connected_slaves", 0)
        return ok(subject, f"primary, {replicas} replicas")
    link = f"a replica, link to its primary {about.get('master_link_status', 'unknown')}"
    if about.get("slave_read_only", 1):
        return problem(subject, f"{link}, read-only: no event can be stored; name the primary")
    return warning(subject, f"{link}: events stored here are lost; name the primary")


def _eviction(about: dict[str, Any]) -> Finding:
    subject, policy = "store: eviction", about.get("maxmemory_policy", "unknown")
    limit = about.get("maxmemory", 0)
    text = f"maxmemory-policy {policy}, maxmemory {limit:,} bytes" if limit else f"{policy}"
    loss = EVICTION.get(policy.partition("-")[0])
    if loss is None:
        return ok(subject, text if limit else f"{text}, no limit of memory")
    advice = "CONFIG SET maxmemory-policy noeviction, and enough maxmemory"
    return warning(subject, f"{text}: {loss}; {advice}")


async def _check_clock(client: Any) -> Finding:
    subject = "store: clock"
    try:
        before = time.time()
        seconds, micros = await client.time()
        after = time.time()
    except (RedisError, OSError) as error:
        return warning(subject, f"TIME is refused ({words_of(error)}): clocks are not compared")
    off = seconds + micros / 1e6 - (before + after) / 2
    if abs(off) > CLOCK_SECONDS:
        return warning(subject, f"Redis differs by {off:+.0f} s: synchronise both clocks (NTP)")
    return ok(subject, f"Redis differs by {off * 1000:+.0f} ms")


def _refused(subject: str, text: str, error: Exception) -> Finding:
    words = words_of(error)
    answered = isinstance(error, ResponseError)
    default = "look for the reason in the log of Redis" if answered else UNREACHABLE
    advice = next((do for part, do in ADVICE.items() if part in words.lower()), default)
    return problem(subject, f"{text} ({words}): {advice}")


def _place(url: str) -> str:
    """Returns hosts and database or service of a URL, and none of its secrets."""
    parsed = parse_redis_url(url)
    hosts = ",".join(f"{host}:{port}" for host, port in parsed.hosts)
    return f"{hosts}/{parsed.service or parsed.options.get('db', 0)}"
