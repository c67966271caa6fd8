"""The explorer's page and its files. They hold no data: the page asks the API for all it shows."""

from fastapi import Response
from starlette.exceptions import HTTPException

from service.explorer.static_files import PAGE, static_files

HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
}
"""Nothing is loaded from another host, and no text in the page runs as a script."""


async def explorer_page() -> Response:
    """Answers with the page."""
    return await explorer_file(PAGE)


async def explorer_file(name: str) -> Response:
    """Answers with a file of the page. Raises HTTPException if there is none of this name."""
    file = static_files().get(name)
    if not file:
        raise HTTPException(404, "Not Found")
    return Response(file.content, headers=HEADERS, media_type=file.media_type)
