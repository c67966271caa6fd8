"""Many lists of a Redis in one round trip, without a client's work for every single command.

What redis-py does for a pipeline took up to a third of a front end's time; its connections connect,
authenticate and encrypt here, too.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError


class Lists:
    """Reads over one connection, which it opens when there is none."""

    def __init__(self, connection: Any) -> None:
        """A `redis.asyncio.Connection`."""
        self._connection = connection
        self._free = asyncio.Lock()

    async def read(self, keys: Sequence[str], most: int) -> list[Any]:
        """The first elements of each list, `most` at the most: in bytes, or a ResponseError.

        Waits as long as it takes. When it is cancelled or fails, the connection is closed. Raises
        RedisError and OSError.
        """
        last = b"%d" % (most - 1)
        asked = b"".join([_command(b"LRANGE", key.encode(), b"0", last) for key in keys])
        async with self._free:
            had_one = self._connection.is_connected
            try:
                return await self._ask(asked, len(keys))
            except RedisConnectionError:
                if not had_one:
                    raise
                return await self._ask(asked, len(keys))  # Redis may have closed it meanwhile

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()

    async def _ask(self, asked: bytes, replies: int) -> list[Any]:
        await self._connection.send_packed_command(asked)
        return [await self._reply() for _ in range(replies)]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error


def _command(*words: bytes) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))
