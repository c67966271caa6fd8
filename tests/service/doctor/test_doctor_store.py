"""The store as `recgpt doctor` sees it: a real Redis in each state that it tells of."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from service.doctor import store
from service.doctor.findings import Finding, Level
from service.doctor.store import check_store
from service.history.embedded.store import EmbeddedStore


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.flush()
    yield redis_server
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_server.command("REPLICAOF", "NO", "ONE")
    redis_server.command("ACL", "DELUSER", "limited")


def unwell(findings: list[Finding]) -> list[tuple[Level, str]]:
    return [(level, subject) for level, subject, _ in findings if level is not Level.OK]


@pytest.mark.parametrize(
    "url", ["redis://:very-secret@host:port/0", "redis://:very-secret@host/x", "ftp://very-secret"]
)
def test_a_url_of_no_store_is_a_problem_and_not_shown(url: str) -> None:
    (found,) = check_store(url)
    assert found.level is Level.PROBLEM
    assert "very-secret" not in found.text


def test_an_absent_redis_is_a_problem() -> None:
    (found,) = check_store("redis://127.0.0.1:1/0")
    assert found.level is Level.PROBLEM
    assert "check host, port" in found.text


def test_a_redis_that_hangs_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (found,) = check_store(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
    assert found.level is Level.PROBLEM
    assert "does not answer" in found.text


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ("-@all", [(Level.PROBLEM, "store")]),
        ("+@all -eval", [(Level.PROBLEM, "store: events")]),
        ("+@all -ltrim", [(Level.PROBLEM, "store: events")]),
        ("+@all -lpush", [(Level.PROBLEM, "store: events")]),
        ("+@all -evalsha", [(Level.PROBLEM, "store: events")]),
        ("+@all -del", [(Level.PROBLEM, "store: events")]),
        (  # all that docs/serve.md asks for
            "+lrange +lpush +ltrim +lindex +rpop +expire +del +eval +evalsha",
            [(Level.WARNING, "store: server"), (Level.WARNING, "store: clock")],
        ),
    ],
)
def test_missing_rights_are_told(
    server: RedisServer, rights: str, expected: list[tuple[Level, str]]
) -> None:
    server.command("ACL", "SETUSER", "limited", "on", ">word", "~h:*", "~e:*", *rights.split())
    url = server.url.replace("redis://", "redis://limited:word@")
    assert unwell(check_store(url)) == expected
    assert server.command("DBSIZE") == "0"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_store_that_evicts_is_a_warning(server: RedisServer, policy: str) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", policy)
    found = check_store(server.url)
    assert unwell(found) == [(Level.WARNING, "store: eviction")]
    assert policy in str(found)


def test_a_read_only_replica_is_a_problem(server: RedisServer) -> None:
    server.command("REPLICAOF", "127.0.0.1", "1")
    found = check_store(server.url)
    assert unwell(found) == [(Level.PROBLEM, "store: events"), (Level.PROBLEM, "store: role")]
    assert "name the primary" in found[1].text


def test_the_file_of_an_embedded_store_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "histories"
    url = f"embedded:{file}"
    assert unwell(check_store(url)) == [(Level.WARNING, "store")]  # it is not there yet
    assert not list(tmp_path.iterdir())
    user = EmbeddedStore(str(file))
    (found,) = check_store(url)
    asyncio.run(user.close())
    assert found.level is Level.WARNING
    assert "used by another process" in found.text
    file.write_bytes(b"nonsense")
    (found,) = check_store(url)
    assert found.level is Level.PROBLEM
    assert "damaged" in found.text
