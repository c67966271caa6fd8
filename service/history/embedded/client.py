"""A client of burner-redis that writes every command that may change the store to a journal.

All commands pass `execute_pipeline`, single ones too, so that no writer has to think of the disk:
a call that returns has changed the store durably.

Commands are read again in the order in which they ran, and then have to do the same. So the id of
a stream's new entry is written as it came out, and a script must not ask for a time or a random
number (pass them as arguments). An expiry counts again from the moment of the reading: a key may
live longer after a restart, never shorter.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgpack
from burner_redis import BurnerRedis, Pipeline

from service.history.embedded.journal import Journal

Command = tuple[str, tuple[Any, ...], dict[str, Any]]
"""The name of a method of burner-redis, and its arguments."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


READS = _names("""
    exists get hexists hget hgetall hvals keys lindex llen lrange mget script_exists sismember
    smembers ttl xinfo_groups xlen xpending xpending_range xrange xread zcard zcount zrange
    zrangebyscore zscore
""")
WRITES = _names("""
    delete eval evalsha expire hdel hincrby hset linsert lmove lpop lpush lrem lset ltrim rpop
    rpoplpush rpush sadd script_load set setex srem xack xadd xdel xgroup_create xgroup_destroy
    xtrim zadd zrangestore zrem zremrangebyscore
""")


class JournalledClient:
    """The commands of Redis that the embedded store has, one by one or in pipelines."""

    def __init__(self, redis: BurnerRedis, journal: Journal, on_write: Callable[[], None]) -> None:
        """Takes a callback for after each write."""
        self._redis: Any = redis
        self._journal = journal
        self._on_write = on_write
        self._scripts: set[str] = set()  # SHA-1 of the scripts that the journal holds
        self.order = asyncio.Lock()
        """Held while commands run that are appended to the journal."""

    def pipeline(self, transaction: bool = True) -> Any:
        """Returns a pipeline; without `raise_on_error`, each command succeeds or fails alone."""
        return Pipeline(self)

    async def execute_pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands and returns their results or exceptions. Raises OSError.

        An error leaves it open whether the commands are stored.
        """
        unknown = {name for name, _, _ in commands} - READS - WRITES
        if unknown:
            raise AttributeError(f"the embedded store has no command {', '.join(sorted(unknown))}")
        writes = [command for command in commands if command[0] in WRITES]
        if not writes:
            return list(await self._redis.execute_pipeline(commands))
        # Shielded: a command that has run is in the journal, even if nobody waits for it any more.
        return await asyncio.shield(asyncio.create_task(self._write(commands, writes)))

    def use_journal(self, journal: Journal) -> Journal:
        """Appends to another journal from now on, and returns the one before; `order` is held."""
        before, self._journal = self._journal, journal
        self._scripts.clear()
        return before

    @property
    def journal(self) -> Journal:
        """The journal to which commands are appended."""
        return self._journal

    async def aclose(self) -> None:
        """Waits for the commands under way."""
        async with self.order:
            await self._redis.aclose()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in READS | WRITES:
            raise AttributeError(f"the embedded store has no command {name}")

        async def run(*args: Any, **options: Any) -> Any:
            return (await getattr(self.pipeline(), name)(*args, **options).execute())[0]

        return run

    async def _write(self, commands: Sequence[Command], writes: Sequence[Command]) -> list[Any]:
        msgpack.packb(writes)  # raises if one can't be written, before any has run
        async with self.order:
            await self._journal.recover()  # nothing runs while the disk takes nothing
            results = list(await self._redis.execute_pipeline(commands))
            for command in self._repeatable(commands, results):
                self._journal.append(msgpack.packb(command))
            journal = self._journal
        await journal.sync()
        self._on_write()
        return results

    def _repeatable(self, commands: Sequence[Command], results: Sequence[Any]) -> Iterator[Command]:
        """Yields the commands that change the store, in a form that does the same when read."""
        for (name, args, options), result in zip(commands, results, strict=True):
            if name == "xadd" and isinstance(result, bytes):
                yield name, args, {**options, "id": result.decode()}
            elif name == "eval":  # the text of a script is written once for a journal
                script, *rest = args
                sha = hashlib.sha1(script.encode()).hexdigest()
                if sha not in self._scripts:
                    self._scripts.add(sha)
                    yield "script_load", (script,), {}
                yield "evalsha", (sha, *rest), {}
            elif name in WRITES:
                yield name, args, options


def read_commands(content: bytes) -> list[Command]:
    """Returns the commands of a frame."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(content), strict_map_key=False)
    unpacker.feed(content)
    return [(name, tuple(args), options) for name, args, options in unpacker]
