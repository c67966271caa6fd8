"""The floor of the HTTP side: an endpoint that reads a body and sends a fixed answer.

    python -m loadtest.serving.empty --size 5000 --port 8002
    python -m loadtest.serving.empty --size 5000 --port 8002 --framework none

With FastAPI it is the floor of a service that is written as usual; without a framework it is the
floor of uvicorn, which ours runs on too.
"""

import argparse
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response


def fastapi_app(payload: bytes) -> FastAPI:
    """Returns an app whose POST /recall answers with the payload."""
    app = FastAPI()

    @app.post("/recall")
    async def recall(request: Request) -> Response:
        await request.body()
        return Response(payload, media_type="application/json")

    return app


def asgi_app(payload: bytes) -> Any:
    """Returns the same as a bare ASGI callable, for every path and method."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, required=True, help="bytes of an answer")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--framework", choices=("fastapi", "none"), default="fastapi")
    options = parser.parse_args()
    create_app = fastapi_app if options.framework == "fastapi" else asgi_app
    uvicorn.run(
        create_app(b'"' + b"x" * (options.size - 2) + b'"'),
        port=options.port,
        access_log=False,
        log_level="warning",
        lifespan="off" if options.framework == "none" else "auto",
    )
