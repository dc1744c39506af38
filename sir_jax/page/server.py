"""The page's server: uploads in, ranked files and maps out. Nothing here decodes or computes."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sir_jax.errors import BadMedia, UserError
from sir_jax.page.engine import RERANK, USUAL, Engine, peaks
from sir_jax.page.files import TYPES, Missing
from sir_jax.page.form import Part, read_form
from sir_jax.page.guard import Guard, Refused, is_loopback
from sir_jax.page.workers import Decoders

STATIC = Path(__file__).parent / "static"
STATIC_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
THUMBNAIL = 480  # longer side, pixels: a card of the page on a screen of double density
# A wave below this is a microphone that is off: 50 dB under full scale.
QUIET = 0.003


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page takes from a browser.

    Attributes:
      upload_bytes: of one request.
      seconds: of a recording.
      pixels: of a picture.
      results: that one search may ask for.
      posts: searches and explanations at once, waiting ones included.
      answer_seconds: what one of them may take.
      held_bytes: decoded queries that are kept to be explained, the latest ones.
      file_bytes: of a file of the index that is explained or drawn small.
      thumbnails: drawn small and kept, the latest ones.
    """

    upload_bytes: int = 32_000_000
    seconds: float = 60.0
    pixels: int = 25_000_000
    results: int = 48
    posts: int = 8
    answer_seconds: float = 120.0
    held_bytes: int = 256_000_000
    file_bytes: int = 64_000_000
    thumbnails: int = 1000


class Server:
    """The routes, and what they share."""

    def __init__(self, engine: Engine, limits: Limits, decoders: Decoders, warm: bool):
        """Hold what answers requests.

        Args:
          engine: the model and the index; called from one thread.
          limits: what is taken from a browser.
          decoders: of uploads.
          warm: compile re-ranking and explanations meanwhile; a request waits for one piece of that
            at most.
        """
        self.warm = warm
        self.engine, self.limits, self.decoders = engine, limits, decoders
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self._held: collections.OrderedDict[str, tuple[str, np.ndarray]] = collections.OrderedDict()
        self._small: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._static = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Start the decoders before the first request and end them after the last."""
        await self.decoders.start()
        warming = asyncio.create_task(self._warm()) if self.warm else None
        try:
            yield
        finally:
            if warming is not None:
                warming.cancel()
            await self.decoders.close()
            self._thread.shutdown(cancel_futures=True)

    async def _warm(self) -> None:
        for piece in self.engine.later():
            await self._in_thread(piece)

    def routes(self) -> list[Route]:
        """Return what can be asked for."""
        return [
            Route("/", self.static),
            Route("/static/{name}", self.static),
            Route("/api/info", self.info),
            Route("/api/search", self.search, methods=["POST"]),
            Route("/api/explain", self.explain, methods=["POST"]),
            Route("/api/picture/{item:path}", self.picture),
            Route("/api/recording/{item:path}", self.recording),
        ]

    async def static(self, request: Request) -> Response:
        """Give a file of the page itself."""
        name = request.path_params.get("name", "index.html")
        if name not in self._static:
            raise HTTPException(404, f"the page has no file {name[:80]!r}")
        return Response(self._static[name], media_type=STATIC_TYPES[Path(name).suffix])

    async def info(self, _: Request) -> Response:
        """Say what is behind the page."""
        model, engine = self.engine.model, self.engine
        return _json(
            {
                "model": model.name,
                "can_match": model.can_match,
                "pictures": len(engine.pictures.known),
                "recordings": len(engine.recordings.known),
                "rerank": RERANK,
                "limits": {
                    "bytes": self.limits.upload_bytes,
                    "seconds": self.limits.seconds,
                    "pixels": self.limits.pixels,
                    "results": self.limits.results,
                },
            }
        )

    async def search(self, request: Request) -> Response:
        """Rank pictures for the part `speech` of a form, or recordings for its part `picture`."""
        kind, name, data, k, rerank = await self._form(request)
        start = time.perf_counter()
        query = await self._decode(kind, name, data)
        milliseconds = (time.perf_counter() - start) * 1e3
        found = await self._in_thread(self.engine.search, kind, query, k, rerank)
        found["timing"] = {"decode": milliseconds, **found["timing"]}
        found.update(token=self._hold(kind, query), kind=kind, name=name)
        if kind == "speech":
            found.update(
                seconds=len(query) / 16_000,
                peaks=peaks(query),
                quiet=bool(np.abs(query).max() < QUIET),
            )
        return _json(found)

    async def explain(self, request: Request) -> Response:
        """Explain one pair: the query of a `token` and the item `id` that it found."""
        body = await _json_body(request)
        if body["token"] not in self._held:
            raise HTTPException(404, "this query is no longer held; search again")
        kind, query = self._held[body["token"]]
        if kind == "speech":
            data = await asyncio.to_thread(
                self.engine.pictures.read, body["id"], self.limits.file_bytes
            )
            pair = query, await self._decode("picture", body["id"], data)
        else:
            data = await asyncio.to_thread(
                self.engine.recordings.read, body["id"], self.limits.file_bytes
            )
            pair = await self._decode("speech", body["id"], data), query
        return _json(await self._in_thread(self.engine.explain, *pair))

    async def picture(self, request: Request) -> Response:
        """Give a picture of the index, as it is or, with `size=thumbnail`, small."""
        item = request.path_params["item"]
        size = request.query_params.get("size", "")
        if size not in ("", "thumbnail"):
            raise HTTPException(400, f"size={size[:80]!r}: leave it out, or ask for 'thumbnail'")
        if not size:
            return _file(await asyncio.to_thread(self.engine.pictures.path, item))
        if item not in self._small:
            data = await asyncio.to_thread(self.engine.pictures.read, item, self.limits.file_bytes)
            small = await self.decoders.thumbnail(
                one_line(item), data, self.limits.pixels, THUMBNAIL
            )
            self._small[item] = small
            if len(self._small) > self.limits.thumbnails:
                self._small.popitem(last=False)
        return Response(self._small[item], media_type="image/jpeg")

    async def recording(self, request: Request) -> Response:
        """Give a recording of the index, or the range of it that a player asks for."""
        item = request.path_params["item"]
        return _file(await asyncio.to_thread(self.engine.recordings.path, item))

    async def _form(self, request: Request) -> tuple[str, str, bytes, int, bool]:
        """Return (kind, name, contents, k, rerank) of the form of a search."""
        parts = await read_form(request.headers.get("content-type", ""), request.stream())
        files = [part for part in parts.values() if part.filename is not None]
        if [part.name for part in files] not in (["speech"], ["picture"]):
            raise UserError("send one file, as part 'speech' or 'picture'")
        k = _whole(parts, "k", USUAL, 1, self.limits.results)
        rerank = _whole(parts, "rerank", 0, 0, 1)
        (file,) = files
        return file.name, one_line(file.filename), bytes(file.data), k, bool(rerank)

    async def _decode(self, kind: str, name: str, data: bytes) -> np.ndarray:
        if kind == "speech":
            return await self.decoders.speech(one_line(name), data, self.limits.seconds)
        return await self.decoders.picture(one_line(name), data, self.limits.pixels)

    async def _in_thread(self, function: Callable, *args) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _hold(self, kind: str, query: np.ndarray) -> str:
        """Keep a query to be explained; return the word that it is asked for by."""
        token = secrets.token_urlsafe(16)
        self._held[token] = kind, query
        while sum(array.nbytes for _, array in self._held.values()) > self.limits.held_bytes:
            self._held.popitem(last=False)
        return token


def make_app(engine: Engine, limits: Limits, decoders: Decoders, warm: bool = False) -> Guard:
    """Return the ASGI application of the page.

    Args:
      engine: the model and the index.
      limits: what is taken from a browser.
      decoders: of uploads; started and ended with the application.
      warm: see `Server`.
    """
    server = Server(engine, limits, decoders, warm)
    app = Starlette(
        routes=server.routes(),
        lifespan=server.lifespan,
        exception_handlers={
            HTTPException: lambda _, error: _error(error.status_code, error.detail),
            Refused: lambda _, error: _error(error.status, str(error)),
            # Nobody reads this answer.
            ClientDisconnect: lambda *_: _error(400, "the upload was broken off"),
            Missing: lambda _, error: _error(404, str(error)),
            BadMedia: lambda _, error: _error(_status(error), str(error)),
            UserError: lambda _, error: _error(400, str(error)),
            Exception: lambda *_: _error(500, "an internal error; the console tells more"),
        },
    )
    return Guard(app, is_loopback, limits.upload_bytes, limits.posts, limits.answer_seconds)


def make_server(
    engine: Engine,
    limits: Limits = Limits(),
    decoders: Decoders | None = None,
    warm: bool = False,
) -> uvicorn.Server:
    """Return the page's server, to be run with a bound socket.

    Args:
      engine: the model and the index.
      limits: what is taken from a browser.
      decoders: of uploads; None for the usual ones.
      warm: see `Server`.
    """
    config = uvicorn.Config(
        make_app(engine, limits, decoders or Decoders(), warm),
        # uvloop starts processes by a fork that JAX's threads do not survive.
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def one_line(name: str) -> str:
    """Return a name as messages can show it: its last part, printable, not long."""
    name = "".join(each if each.isprintable() else " " for each in name)
    return name.replace("\\", "/").rsplit("/", 1)[-1].strip()[-80:] or "the file"


def _status(error: BadMedia) -> int:
    return 413 if error.fault in ("too long", "too large") else 415


def _whole(parts: dict[str, Part], name: str, usual: int, low: int, high: int) -> int:
    if name not in parts:
        return usual
    text = bytes(parts[name].data)
    if not text.isdigit() or not low <= int(text) <= high:
        shown = text.decode("ascii", "replace")
        raise UserError(f"{name}={shown!r} is not a whole number from {low} to {high}")
    return int(text)


async def _json_body(request: Request) -> dict[str, str]:
    """Return the strings `token` and `id` of a request's body."""
    try:
        body = json.loads(await request.body())
        return {name: body[name] + "" for name in ("token", "id")}
    except (ValueError, LookupError, TypeError, RecursionError):
        raise HTTPException(400, 'send JSON: {"token": "...", "id": "..."}') from None


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=TYPES[path.suffix.lower()])


def _json(value: Any) -> Response:
    # ASCII: a file's name may hold what UTF-8 cannot. NaN is no JSON, and is not to happen.
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")


def _error(status: int, message: str) -> Response:
    body = json.dumps({"error": " ".join(message.split())})
    return Response(body, status, media_type="application/json")
