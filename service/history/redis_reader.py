"""A reader of many Redis lists in one round trip, without a client's work for each command.

A pipeline of redis-py took up to a third of a front end's time. This reader writes the commands
itself and leaves the hard parts to a connection of redis-py: connecting, authentication,
encryption, and the parsing of replies.

A command goes over the wire as an array of strings, each after its length in bytes: `LRANGE k 0 9`
is *4 $6 LRANGE $1 k $1 0 $1 9, with CR LF in place of the spaces. Redis answers commands in the
order in which they came, so all of them are sent first and all replies read afterwards. The last
command is `ECHO` with the number of the call: if its reply is another one, somebody left a reply
unread on this connection, and all that were read may belong to other users.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoPermissionError, ResponseError


class RedisReader:
    """Reads lists over one connection, which it opens if there is none."""

    def __init__(self, connection: Any) -> None:
        """Takes a `redis.asyncio.Connection`."""
        self._connection = connection
        self._free = asyncio.Lock()
        self._calls = 0

    async def read(self, keys: Sequence[str], limit: int) -> list[Any]:
        """Returns the first `limit` elements of each list, in bytes, or a ResponseError.

        Waits without a limit of time; if it is cancelled or fails, the connection is closed. Raises
        RedisError and OSError.
        """
        last = b"%d" % (limit - 1)
        commands = b"".join([_command(b"LRANGE", key.encode(), b"0", last) for key in keys])
        async with self._free:
            reused = self._connection.is_connected
            try:
                return await self._ask(commands, len(keys))
            except RedisConnectionError:
                if not reused:
                    raise
                return await self._ask(commands, len(keys))  # Redis may have closed it meanwhile
            except InvalidResponse:
                await self.close()
                raise

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.disconnect()

    async def _ask(self, commands: bytes, lists: int) -> list[Any]:
        self._calls += 1
        number = b"%d" % self._calls
        if not self._connection.is_connected:
            await self._connection.connect()
        await self._connection.send_packed_command(commands + _command(b"ECHO", number))
        replies = [await self._reply() for _ in range(lists)]
        echo = await self._reply()
        if not all(isinstance(reply, list | ResponseError) for reply in replies):
            raise InvalidResponse("a reply to LRANGE is not a list")
        try:
            for reply in replies:
                if isinstance(reply, list):
                    b"".join(reply)  # the fastest look at the type of each element
        except TypeError:
            raise InvalidResponse("a list has elements that are no strings") from None
        refused = isinstance(echo, NoPermissionError) or (
            isinstance(echo, ResponseError) and not any(isinstance(r, list) for r in replies)
        )
        if echo != number and not refused:
            raise InvalidResponse("replies do not follow the order of the commands")
        return replies

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error


def _command(*words: bytes) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))
