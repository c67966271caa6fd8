"""TLS by the options `--ssl-certfile`, `--ssl-keyfile` and `--ssl-ca-certs`, named as uvicorn's."""

import ssl
from typing import Any

from service.settings import ServeSettings


def check_certificate(settings: ServeSettings) -> None:
    """Raises ValueError, which says what to do, if TLS is wanted and its files cannot be used."""
    others = {"--ssl-keyfile": settings.ssl_keyfile, "--ssl-ca-certs": settings.ssl_ca_certs}
    if not settings.ssl_certfile:
        for option, file in others.items():
            if file:
                raise ValueError(f"{option}: give the certificate, too, by --ssl-certfile")
        return
    for option, file in {"--ssl-certfile": settings.ssl_certfile, **others}.items():
        if file and not file.is_file():
            raise ValueError(f"{option}: there is no file {file}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, lambda: "")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--ssl-certfile, --ssl-keyfile: certificate and key cannot be used ({error}): give "
            "PEM files that belong together, and a key without a password"
        ) from error
    try:
        context.load_verify_locations(settings.ssl_ca_certs) if settings.ssl_ca_certs else None
    except OSError as error:
        raise ValueError(f"--ssl-ca-certs: not a PEM file of certificates ({error})") from error


def tls_options(settings: ServeSettings) -> dict[str, Any]:
    """Returns the options of `uvicorn.Config`; none without a certificate."""
    if not settings.ssl_certfile:
        return {}
    options: dict[str, Any] = {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    if settings.ssl_ca_certs:
        options |= {"ssl_ca_certs": settings.ssl_ca_certs, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options
