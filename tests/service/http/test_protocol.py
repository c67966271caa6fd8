"""Heads of answers wait for their bodies."""

import asyncio

from service.http.protocol import _CoalescingTransport


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def test_a_head_goes_out_with_its_body_or_alone_when_none_comes() -> None:
    async def run() -> None:
        transport = Transport()
        held = _CoalescingTransport(transport, asyncio.get_running_loop())
        held.write(b"HTTP/1.1 200 OK\r\n\r\n")
        held.write(b"body")
        held.write(b"more")
        assert transport.sent == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]
        held.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.sleep(0)
        held.write(b"late")
        assert transport.sent[2:] == [b"HTTP/1.1 200 OK\r\n\r\n", b"late"]
        held.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        held.close()
        assert transport.sent[-1].startswith(b"HTTP/1.1 408")
        assert transport.closed
        assert held.get_extra_info("peername") is None  # all else is the transport's own

    asyncio.run(run())
