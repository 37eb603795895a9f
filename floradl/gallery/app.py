"""The gallery as a web application: page, API, files, thumbnails and live news, all behind the guard."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from anyio import CapacityLimiter, create_task_group, to_thread
from msgspec import Struct
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from floradl.errors import FloradlError
from floradl.gallery import answers
from floradl.gallery.files import Content, FileAnswer, open_content, until_gone
from floradl.gallery.guard import HEADERS, Asked, Guard, RequestRefusal, SignIn
from floradl.gallery.live import News
from floradl.gallery.thumbnails import Thumbnails
from floradl.index.library_index import LibraryIndex
from floradl.library.base import LibraryStore
from floradl.log import get_logger

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
_WORTH_PACKING: Final = 16 << 10  # bytes
_LONGEST_SIDECAR: Final = 64 << 20
_AT_ONCE: Final = 3  # questions to the index
_ACTIONS: Final = frozenset({"retry", "forget", "prune"})
_log = get_logger()

Act = Callable[[str, str], None]
"""Does what a button wants: one of `ACTIONS`, and a run's id. Blocking. Raises `FloradlError`."""

ACTIONS: Final = ("retry", "forget", "prune")
"""What the page has buttons for, where the gallery may change anything; panel.js says what is on them."""


class Parts(Struct, frozen=True):
    """What the gallery is made of. `act` is None where its buttons do nothing.

    `is_known` says of a run's id whether the page may show it: it blocks, and raises `FloradlError`.
    """

    library: LibraryStore
    index: LibraryIndex
    thumbnails: Thumbnails
    news: News
    guard: Guard
    act: Act | None
    is_known: Callable[[str], bool]


def build_app(parts: Parts) -> ASGIApp:
    """Return the application."""
    return _Guarded(_Gallery(parts).app(), parts.guard)


class _Gallery:
    """Answers the guarded requests."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._limit = CapacityLimiter(_AT_ONCE)
        self._page = _Static(_STATIC)

    def app(self) -> Starlette:
        get = ["GET"]
        routes = [
            Route("/", self._index_page, methods=get),
            Route("/static/{name:path}", self._static, methods=get),
            Route("/api/outputs", self._outputs, methods=get),
            Route("/api/view", self._view, methods=get),
            Route("/api/runs/{run_id}", self._run, methods=get),
            Route("/api/status", self._status, methods=get),
            Route("/api/events", self._events, methods=get),
            Route("/api/runs/{run_id}/{action}", self._act, methods=["POST"]),
            Route("/files/{path:path}", self._file, methods=get),
            Route("/thumbnails/{sha256}.webp", self._thumbnail, methods=get),
        ]
        handlers: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
            HTTPException: _refused,
            answers.BadQueryError: _bad_query,
            FloradlError: _unavailable,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # to a URL made of what the client calls this host
        return app

    async def _index_page(self, request: Request) -> Response:
        return self._page.answer("index.html", request)

    async def _static(self, request: Request) -> Response:
        return self._page.answer(request.path_params["name"], request)

    async def _outputs(self, request: Request) -> Response:
        query = request.query_params
        view, limit = answers.view_of(query, time.time()), answers.limit_of(query)
        try:
            page = await self._asked(
                lambda: self._parts.index.views.page(view, limit, query.get("cursor") or None)
            )
        except ValueError as error:
            raise answers.BadQueryError(f"cursor: {error}") from error
        return _json(request, answers.page_answer(page))

    async def _view(self, request: Request) -> Response:
        now = time.time()
        view = answers.view_of(request.query_params, now)
        layout = await self._asked(lambda: self._parts.index.views.layout(view))
        return _json(request, answers.layout_answer(layout, now))

    async def _run(self, request: Request) -> Response:
        def read() -> dict[str, Any] | None:
            library = self._parts.library
            run = self._parts.index.run(request.path_params["run_id"])
            file = library.open_file(run.path) if run is not None else None
            if file is None:
                return None
            with file:
                return answers.run_answer(file.read(_LONGEST_SIDECAR), library.location().rstrip("/"))

        try:
            answer = await self._asked(read)
        except ValueError:
            answer = None
        if answer is None:
            raise HTTPException(404, "no sidecar of this run is known")
        return _json(request, answer)

    async def _status(self, _: Request) -> Response:
        return _answer(await to_thread.run_sync(self._parts.news.status))

    async def _events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(None, media_type="text/event-stream")
        if self._parts.news.is_full:
            raise HTTPException(503, "too many pages are open: close some")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._parts.news.listen(), headers=headers, media_type="text/event-stream")

    async def _act(self, request: Request) -> Response:
        run_id, action = request.path_params["run_id"], request.path_params["action"]
        if action not in ACTIONS:
            raise HTTPException(404, "there is no such action")
        if self._parts.act is None:
            raise HTTPException(403, "this gallery changes nothing: that takes a token, see web.token_file")
        if not await self._asked(lambda: self._parts.is_known(run_id)):
            raise HTTPException(404, "no such run is known")
        await to_thread.run_sync(self._parts.act, action, run_id)
        return _answer(answers.encoded({"run_id": run_id, "action": action}), 202)

    async def _file(self, request: Request) -> Response:
        path = request.path_params["path"]

        def opened() -> tuple[Content, str] | None:
            # What no sidecar names is nobody's business: the library may hold other things of its owner's.
            known = self._parts.index.by_path(path)
            content = open_content(self._parts.library, path) if known is not None else None
            return None if known is None or content is None else (content, known.sha256 or "")

        try:
            found = await self._asked(opened)
        except (ValueError, OSError):
            found = None
        if found is None:
            raise HTTPException(404, "no output of the library has this path")
        return FileAnswer(request, found[0], path.rpartition("/")[2], found[1])

    async def _thumbnail(self, request: Request) -> Response:
        made: bytes | None = None
        async with create_task_group() as group:
            group.start_soon(until_gone, request.receive, group.cancel_scope)
            made = await self._parts.thumbnails.get(request.path_params["sha256"])
            group.cancel_scope.cancel()
        if made is None:
            return Response(None, 503, {"Retry-After": "1", "Cache-Control": "no-store"})
        if not made:
            return Response(None, 404, {"Cache-Control": "private, max-age=60"})
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(made, headers=headers, media_type="image/webp")

    async def _asked(self, work: Callable[[], Any]) -> Any:
        return await to_thread.run_sync(work, limiter=self._limit)


class _Static:
    """The page's own files, by their names: nothing else is there."""

    def __init__(self, folder: Path) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in _TYPES
        }

    def answer(self, name: str, request: Request) -> Response:
        path = self._files.get(name)
        if path is None:
            raise HTTPException(404, "there is no such page")
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(data, headers=headers, media_type=_TYPES[path.suffix])


class _Guarded:
    """Lets in whom the guard lets in, and puts its headers on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        asked = Asked(
            request.method,
            request.url.path,
            request.url.query,
            dict(request.headers.items()),
            request.cookies,
        )
        match self._guard.judge(asked):
            case RequestRefusal(status, message):
                response = _said(status, message)
                if "text/html" in request.headers.get("accept", ""):  # a person, who reads it
                    response = Response(f"{message}\n", status, media_type="text/plain")
                if status == 401:
                    response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, headed)
            case SignIn(cookie, location):
                redirect = RedirectResponse(
                    location, 303, {"Set-Cookie": cookie, "Cache-Control": "no-store"}
                )
                await redirect(scope, receive, headed)
            case None:
                await self._app(scope, receive, headed)


def _json(request: Request, answer: dict[str, Any]) -> Response:
    data = answers.encoded(answer)
    if len(data) < _WORTH_PACKING or "gzip" not in request.headers.get("accept-encoding", ""):
        return _answer(data)
    response = _answer(gzip.compress(data, 1))
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _answer(data: bytes, status: int = 200) -> Response:
    return Response(data, status, {"Cache-Control": "no-store"}, media_type="application/json")


def _said(status: int, message: str) -> Response:
    codes = {400: "bad_request", 401: "token_needed", 403: "refused", 404: "not_found", 405: "bad_method"}
    code = codes.get(status, "unavailable")
    return _answer(answers.encoded({"error": {"code": code, "message": message}}), status)


async def _refused(_: Request, error: Exception) -> Response:
    known = cast("HTTPException", error)
    return _said(known.status_code, known.detail)


async def _bad_query(_: Request, error: Exception) -> Response:
    return _said(400, str(error))


async def _unavailable(_: Request, error: Exception) -> Response:
    _log.warning("gallery_unavailable", message=str(error))
    return _said(503, str(error))
