"""TLS with certificates of the test's own: the protocol, and the whole service."""

import ssl
from pathlib import Path

import httpx
import pytest
from certificates import Certificates, make_certificates
from http_connections import Room, answer, ended, serving
from running_service import service

from service.http import protocol
from service.http.tls import check_certificate
from service.settings import ServeSettings

UVLOOP = ("asyncio", {"use_uvloop": True})
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
RECALL = b"POST /recall HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n%b\r\n{}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", UVLOOP])
async def test_answers_and_refusals_arrive_over_tls(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    room = Room(recalls=0)
    async with serving(room, certificates=certificates) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(GET)
            assert await answer(reader) == (200, b"0")
            writer.write(RECALL % b"")
            assert (await answer(reader))[0] == 429
        writer.write(GET.replace(b"/ ", b"/large "))
        status, content = await answer(reader)
        assert (status, len(content)) == (200, 50_000_000)
        for last, status in ((RECALL % b"Connection: close\r\n", 429), (b"no HTTP\r\n\r\n", 400)):
            reader, writer = await connect()
            writer.write(last)
            assert (await answer(reader))[0] == status
            assert await ended(reader)


def test_the_service_speaks_https_to_clients_with_a_certificate(
    artifacts: Path, tmp_path: Path, certificates: Certificates
) -> None:
    files = {
        "RECGPT_SSL_CERTFILE": str(certificates.server),
        "RECGPT_SSL_KEYFILE": str(certificates.server_key),
        "RECGPT_SSL_CA_CERTS": str(certificates.authority),
    }
    trusted = ssl.create_default_context(cafile=certificates.authority)
    trusted.load_cert_chain(certificates.client, certificates.client_key)
    store = f"embedded:{tmp_path / 'histories'}"
    with service(artifacts, store, tmp_path, trusted, **files) as running:
        assert running.recall(user_id="u0", k=5)["items"]
        url = str(running.client.base_url)
        stranger = ssl.create_default_context(cafile=certificates.authority)
        for address, context in ((url, stranger), (url.replace("https", "http"), trusted)):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{address}/healthz", verify=context)
        assert running.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"ssl_keyfile": "server_key"}, "--ssl-keyfile: give the certificate"),
        ({"ssl_ca_certs": "authority"}, "--ssl-ca-certs: give the certificate"),
        ({"ssl_certfile": "missing"}, "--ssl-certfile: there is no file"),
        ({"ssl_certfile": "server"}, "cannot be used"),  # it does not hold the key
        ({"ssl_certfile": "server", "ssl_keyfile": "client_key"}, "cannot be used"),
        (
            {"ssl_certfile": "server", "ssl_keyfile": "server_key", "ssl_ca_certs": "client_key"},
            "--ssl-ca-certs: not a PEM file",
        ),
        ({"ssl_certfile": "server", "ssl_keyfile": "server_key", "ssl_ca_certs": "authority"}, ""),
        ({}, ""),
    ],
)
def test_files_that_cannot_be_used_are_said(
    certificates: Certificates, files: dict[str, str], problem: str
) -> None:
    paths = {name: getattr(certificates, file, Path(file)) for name, file in files.items()}
    settings = ServeSettings(artifacts=Path(), store="", **paths)  # type: ignore[arg-type]
    if not problem:
        check_certificate(settings)
        return
    with pytest.raises(ValueError, match=problem):
        check_certificate(settings)
