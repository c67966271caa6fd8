"""A reader of lists that lie on many nodes of a Redis cluster.

Each node is read over one connection, all at the same time. A node that fails concerns its own keys
only: their users go without history until it is asked again. A key that has moved is not taken
for an empty history: redis-py's client follows it to its new node.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)

from service.history.health import words_of
from service.history.redis_client import node_connection
from service.history.redis_reader import RedisReader

NODE_PAUSE = 0.5
"""Seconds for which a node that failed is not asked."""
REDIRECTIONS = (MovedError, AskError, TryAgainError, ClusterDownError)


class NodeUnavailable(RedisError):
    """The node that has a key did not answer; other nodes may."""


class ClusterReader:
    """Reads lists from the nodes that have them."""

    def __init__(self, client: RedisCluster, seconds: float) -> None:
        """Takes the time limit of a call, of which one node gets a half."""
        self._client: Any = client
        self._node_seconds = seconds / 2
        self._readers: dict[str, RedisReader] = {}  # by the names of nodes
        self._paused: dict[str, tuple[float, str]] = {}  # until when, and why
        self._map_is_old = False

    async def read(self, keys: Sequence[str], limit: int) -> list[Any]:
        """Returns the first `limit` elements of each list, in bytes, or a RedisError.

        Raises RedisError and OSError if nobody can say which node has which key.
        """
        await self._learn_map()
        replies: list[Any] = [None] * len(keys)
        by_node: dict[str, tuple[ClusterNode, list[int]]] = {}
        for position, key in enumerate(keys):
            try:
                node = self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key))
            except RedisClusterException:
                self._map_is_old = True
                replies[position] = NodeUnavailable("no node has the slot")
            else:
                by_node.setdefault(node.name, (node, []))[1].append(position)

        async def read_part(node: ClusterNode, positions: list[int]) -> None:
            part = await self._read_node(node, [keys[position] for position in positions], limit)
            for position, reply in zip(positions, part, strict=True):
                replies[position] = reply

        await asyncio.gather(*(read_part(*part) for part in by_node.values()))
        return replies

    async def close(self) -> None:
        """Closes the connections."""
        for reader in self._readers.values():
            await reader.close()

    async def _learn_map(self) -> None:
        """Learns which node has which slots, at first and after a node failed."""
        await self._client.initialize()
        if self._map_is_old:
            await self._client.nodes_manager.initialize()
            self._map_is_old = False

    async def _read_node(self, node: ClusterNode, keys: Sequence[str], limit: int) -> list[Any]:
        until, words = self._paused.get(node.name, (0.0, ""))
        if time.monotonic() < until:
            return [NodeUnavailable(words)] * len(keys)
        if node.name not in self._readers:
            self._readers[node.name] = RedisReader(node_connection(node))
        try:
            async with asyncio.timeout(self._node_seconds):
                replies = await self._readers[node.name].read(keys, limit)
                for position, reply in enumerate(replies):
                    if isinstance(reply, REDIRECTIONS):
                        replies[position] = await self._follow(keys[position], limit)
        except (RedisError, OSError) as error:
            words = words_of(error)
        except TimeoutError:
            words = f"TimeoutError: no answer within {self._node_seconds} s"
        else:
            return replies
        self._paused[node.name] = time.monotonic() + NODE_PAUSE, words
        self._map_is_old = True
        return [NodeUnavailable(words)] * len(keys)

    async def _follow(self, key: str, limit: int) -> Any:
        """Reads a key that its node says is elsewhere; the client learns from it."""
        try:
            return await self._client.lrange(key, 0, limit - 1)
        except RedisError as error:
            return NodeUnavailable(words_of(error))
