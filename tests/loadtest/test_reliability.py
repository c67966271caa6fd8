"""The harness of faults makes them, and counts what clients see."""

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loadtest.reliability import chaos, engine_faults, overload, redis_faults, shutdown
from loadtest.reliability.clients import Heard, Load
from loadtest.reliability.proxy import Proxy
from loadtest.reliability.report import Bar, Figures, table

pytestmark = pytest.mark.anyio

ANSWER = b'{"items":[{"item_id":"a"},{"item_id":"b"}],"degraded_reason":%b}'


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_the_proxy_forwards_delays_cuts_and_refuses() -> None:
    with echo() as port, Proxy(port) as proxy:
        at = ("127.0.0.1", int(proxy.url.rpartition(":")[2].partition("/")[0]))
        with socket.create_connection(at, timeout=30) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            proxy.delay_s = 0.05
            client.sendall(b"later")
            assert client.recv(100) == b"later"
            proxy.delay_s, proxy.cut = 0.0, True
            client.sendall(b"half")
            assert client.recv(100) == b"ha"
            assert ended(client)
        proxy.cut = False
        with socket.create_connection(at, timeout=30) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            proxy.refuse = True
            proxy.hang_up()
            assert ended(client)
        with socket.create_connection(at, timeout=30) as client:
            assert ended(client)


def ended(client: socket.socket) -> bool:
    """Whether the other side has ended the connection; waits for it."""
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


class Service:
    """Answers recalls; the n-th request of all gets the n-th answer, the last one for ever."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(EOFError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.rpartition(b": ")[2]))
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if answer is None:
                    break
                writer.write(answer)
        writer.close()


def response(status: int, body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), more, body)


async def heard(service: Service, count: int) -> list[Heard]:
    """Returns the outcomes of the first requests of one client."""
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(60):
        async with Load(lambda: [port], ["ann", "bob"], rate=1000, clients=1) as load:
            while len(load.heard) < count:
                await asyncio.sleep(0.001)
        return load.heard


async def test_a_client_counts_statuses_and_answers_that_never_came() -> None:
    good, degraded = ANSWER % b"null", ANSWER % b'"store_unavailable"'
    service = Service(
        response(200, good),
        response(429, b""),
        None,
        response(200, degraded, b"connection: close\r\n"),
        response(200, good),
    )
    found = await heard(service, 6)
    assert [one.status for one in found[:6]] == [200, 429, 0, 200, 200, 200]
    assert [one.reason for one in found[3:5]] == ["store_unavailable", ""]
    assert found[0].items == ("a", "b")
    assert {one.user for one in found} == {"ann", "bob"}
    assert service.connections == 3


def path(ms: float, status: str = "200") -> Figures:
    return {"/healthz": {"max_ms": ms, "median_ms": 1.0, "statuses": {status: 3}}}


def overloaded(**changes: object) -> Figures:
    found: Figures = {"rps": 95.0, "p99_ms": 30.0, "statuses": {"200": 9, "429": 90}}
    found |= {"health": path(50)} | changes
    return {
        "peak_rps": 100.0,
        "half": {"p99_ms": 12.0},
        "x5": found,
        "x20": found,
        "flood": {"connections": 3000, "rps": 91.0, "statuses": {"429": 2}, "health": path(99)},
        "memory_mb_before": 80.0,
        "memory_mb_after": 100.0,
    }


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, 0),
        ({"rps": 89.0}, 2),
        ({"p99_ms": 37.0}, 2),
        ({"statuses": {"200": 9, "504": 1}}, 2),
        ({"health": path(101)}, 2),
        ({"health": path(1, "503")}, 2),
    ],
)
def test_bars_of_an_overload(changes: Figures, missed: int) -> None:
    found = list(overload.bars(overloaded(**changes)))
    assert sum(not bar.holds for bar in found) == missed


def test_bars_of_other_faults() -> None:
    engine = {
        "ready_s": 3.1,
        "unready_s": 0.1,
        "engines_mb": 400.0,
        "statuses": {"200": 5, "500": 1},
    }
    assert [bar.holds for bar in engine_faults.bars({"killed": engine})] == [False, False]
    redis = {"seconds": 4.0, "statuses": {"200": 5}, "wrong": 1, "answers_during": 5}
    redis |= {"flagged_during": 4, "normal_after_s": 3.5}
    assert [bar.holds for bar in redis_faults.bars({"gone": redis})] == [True, False, False]
    going = {"rounds": 2, "lag_s": 2.0, "statuses": {"200": 5, "0": 1}, "exit_codes": {"0": 2}}
    assert [bar.holds for bar in shutdown.bars(going)] == [False, True]


def test_answers_of_other_users_are_found_and_degraded_ones_are_no_measure() -> None:
    mine, others = ("a", "b", "c"), ("x", "y", "z")
    before = [
        Heard(0, 0, 200, "ann", "", mine),
        Heard(0, 0, 200, "bob", "store_unavailable", others),
    ]
    later = [
        Heard(1, 0, 200, "ann", "", ("a", "b", "d")),
        Heard(1, 0, 200, "ann", "store_unavailable", others),
        Heard(1, 0, 200, "ann", "", others),
        Heard(1, 0, 200, "bob", "", mine),
    ]
    assert redis_faults._wrong(before, later) == 1


def test_the_table_marks_what_is_missed() -> None:
    about = dict.fromkeys(("command", "machine", "python", "date", "commit"), "…") | {"seconds": 4}
    text = table(about, "Part", [Bar("a", "1", "≤ 2", True), Bar("b", "3", "≤ 2", False)])
    assert "| a | 1 | ≤ 2 |" in text
    assert "| b | 3 | ≤ 2: **missed** |" in text


def test_a_run_of_one_part_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def part(name: str, holds: bool) -> chaos.Part:
        return chaos.Part(
            name, lambda folder, quick: {}, lambda figures: iter([Bar(name, "1", "≥ 1", holds)])
        )

    def run(*parts: str) -> int:
        monkeypatch.setattr(sys, "argv", ["chaos", "--out", str(tmp_path), "--parts", *parts])
        with pytest.raises(SystemExit) as ended:
            chaos.main()
        return int(ended.value.code or 0)

    monkeypatch.setattr(chaos, "make_bundle", lambda folder: None)
    monkeypatch.setattr(chaos, "PARTS", {"a": part("a", False), "b": part("b", True)})
    assert run("a") == 1
    assert run("b") == 0, "only what was measured now counts"
    page = (tmp_path / "reliability.md").read_text()
    assert "| a | 1 | ≥ 1: **missed** |" in page
    assert "| b | 1 | ≥ 1 |" in page
