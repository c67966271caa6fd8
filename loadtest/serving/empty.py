"""The floor of the HTTP side: the same framework and server, a body read, a fixed answer.

python -m loadtest.serving.empty --size 5000 --port 8002
"""

import argparse

import uvicorn
from fastapi import FastAPI, Request, Response


def create_app(size: int) -> FastAPI:
    """POST /recall answers with `size` bytes."""
    app = FastAPI()
    payload = b'"' + b"x" * (size - 2) + b'"'

    @app.post("/recall")
    async def recall(request: Request) -> Response:
        await request.body()
        return Response(payload, media_type="application/json")

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(create_app(options.size), port=options.port, access_log=False, log_level="warning")
