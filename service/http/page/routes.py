"""The page at ``/``, Swagger UI at ``/docs``, and the files of both: nothing comes from elsewhere.

Every file is the same for everyone and says nothing of this server: the guard lets them through
without a key, and what the page asks for is asked with one.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.http.page.files import File, read_files
from service.http.problems import NOTHING_HERE, NotFound

#: The page has no inline script and one style, and shows pictures that it has made or was sent.
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self' '{style}'; "
    "img-src 'self' data: blob:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
#: Swagger UI writes styles and HTML from strings.
SWAGGER = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: A script, style or picture that is opened by itself does nothing.
ALONE = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Asked for again each time, and not sent again unless it has changed.
REVALIDATE = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"


def add_page(app: FastAPI) -> None:
    """Put the routes on the application; they are in no OpenAPI document."""
    files = read_files()

    async def page(request: Request) -> Response:
        return _respond(request, files["index.html"], STRICT.format(style=files.style))

    async def docs(request: Request) -> Response:
        return _respond(request, files["docs.html"], SWAGGER)

    async def part(request: Request) -> Response:
        """An address of another version, of a page that is open since then, gets today's file."""
        version, name = (request.path_params[key] for key in ("version", "name"))
        file = files.get(name)
        if file is None or file.media_type.startswith("text/html"):
            raise NotFound(NOTHING_HERE)
        keep = FOR_EVER if version == files.version else REVALIDATE
        return _respond(request, file, keep=keep)

    for path, endpoint in (("/", page), ("/docs", docs), ("/page/{version}/{name}", part)):
        app.add_route(path, endpoint, methods=["GET"], include_in_schema=False)


def _respond(
    request: Request, file: File, policy: str = ALONE, keep: str = REVALIDATE
) -> Response:
    """The file, or 304 to who has it."""
    headers = {**HEADERS, "Content-Security-Policy": policy}
    headers |= {"Cache-Control": keep, "ETag": file.etag, "Vary": "Accept-Encoding"}
    known = request.headers.get("if-none-match", "")
    if file.etag in (one.strip() for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = file.packed, "gzip"
    return Response(body, media_type=file.media_type, headers=headers)
