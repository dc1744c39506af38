"""The page's server. It only handles requests: decoders and the engine's thread do the work."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.synthesis import missing_engines
from sir_jax.data.media.synthesis.said import MOST_LETTERS, Said, say, spoken_languages
from sir_jax.errors import BadMedia, UserError
from sir_jax.index.moments.windows import QUIET, level_of
from sir_jax.page.asked import (
    kind_of_form,
    one_line,
    read_body,
    span_of,
    text_of,
    whole_number,
)
from sir_jax.page.engine import DEFAULT_RESULTS, RERANK, Engine
from sir_jax.page.form import TEXT, Part, read_form
from sir_jax.page.guard import Guard, Refused, is_loopback
from sir_jax.page.item_files import TYPES, Missing, Outlines, format_of
from sir_jax.page.outline import peaks
from sir_jax.page.progress import Follower, Progress, while_awaited
from sir_jax.page.workers import Decoders

STATIC = Path(__file__).parent / "static"
STATIC_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
THUMBNAIL = 480  # pixels of the longer side: twice the size of a card, for dense screens
WHOLE = 2048  # likewise of a picture in a format that browsers do not know
LONG_SECONDS = 120  # to decode a recording of hours


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests, and on what the server keeps.

    Attributes:
      upload_bytes: most bytes of a request.
      seconds: most seconds of a recording.
      pixels: most pixels of a picture.
      results: most results of a search.
      posts: most searches and explanations at once, waiting ones included.
      answer_seconds: most seconds that one of them may take.
      held_bytes: most bytes of queries that are kept for explanations.
      file_bytes: most bytes of a file of the index that is explained or shown as a thumbnail.
      thumbnails: most thumbnails that are kept.
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
    """The routes of the page and their common state."""

    def __init__(self, engine: Engine, limits: Limits, decoders: Decoders, warm: bool):
        """Hold the parts that answer requests.

        Args:
          engine: the model and the index; called from one thread.
          limits: limits on requests.
          decoders: the processes that decode uploads.
          warm: whether to compile the programs of re-ranking and explanation in the background; a
            request waits for at most one of them.
        """
        self.warm = warm
        self.engine, self.limits, self.decoders = engine, limits, decoders
        # Started by the first long recording; uploads do not wait for it.
        self._long = Decoders(seconds=LONG_SECONDS)
        self._outlines = Outlines(
            engine.recordings, lambda item, path: self._long.outline(one_line(item), path)
        )
        self._progress = Progress()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        # token -> (kind, samples or a picture's file), oldest first
        self._queries: collections.OrderedDict[str, tuple[str, np.ndarray | bytes]] = (
            collections.OrderedDict()
        )
        self._thumbnails: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        # Asked again for more results, a text is not said again.
        self._say = functools.lru_cache(maxsize=4)(say)
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
            await self._long.close()
            self._thread.shutdown(cancel_futures=True)

    async def _warm(self) -> None:
        for step in self.engine.warmup_steps():
            await self._in_thread(step)

    def routes(self) -> list[Route]:
        """Return the routes of the page."""
        return [
            Route("/", self.static),
            Route("/static/{name}", self.static),
            Route("/api/info", self.info),
            Route("/api/search", self.search, methods=["POST"]),
            Route("/api/progress/{name}", self.progress),
            Route("/api/explain", self.explain, methods=["POST"]),
            Route("/api/query/{token}", self.query),
            Route("/api/picture/{item:path}", self.picture),
            Route("/api/recording/{item:path}", self.recording),
            Route("/api/outline/{item:path}", self.outline),
        ]

    async def static(self, request: Request) -> Response:
        """Serve a file of the page itself."""
        name = request.path_params.get("name", "index.html")
        if name not in self._static:
            raise HTTPException(404, f"the page has no file {name[:80]!r}")
        return Response(self._static[name], media_type=STATIC_TYPES[Path(name).suffix])

    async def info(self, _: Request) -> Response:
        """Describe the model, the index and the limits."""
        return _json(
            {
                **self.engine.describe(),
                "rerank": RERANK,
                "limits": {
                    "bytes": self.limits.upload_bytes,
                    "seconds": self.limits.seconds,
                    "pixels": self.limits.pixels,
                    "results": self.limits.results,
                    "letters": MOST_LETTERS,
                    "quiet": QUIET,
                },
                **await asyncio.to_thread(_typing),
            }
        )

    async def search(self, request: Request) -> Response:
        """Search with what a form holds.

        That is an uploaded file, the part `speech` or `picture`, or typed words, the field `say`,
        which voices of the field `language` say. `progress` tells the stage of a search by the name
        in its header `watch`. It ends when its client goes away.
        """
        parts = await read_form(request.headers.get("content-type", ""), request.stream())
        with self._progress.follow(request.headers.get("watch", "")) as tell:
            return _json(await while_awaited(request, self._search(parts, tell), tell))

    async def _search(self, parts: dict[str, Part], tell: Follower) -> dict[str, Any]:
        kind = kind_of_form(parts)
        k = whole_number(parts, "k", DEFAULT_RESULTS, 1, self.limits.results)
        rerank, data = bool(whole_number(parts, "rerank", 0, 0, 1)), b""
        start = time.perf_counter()
        stage = "speak" if kind == TEXT else "decode"
        tell(stage)
        if kind == TEXT:
            words = text_of(parts, TEXT), text_of(parts, "language")
            query = await asyncio.to_thread(self._say, *words)
            kind, name = "speech", query.text
        else:
            name, data = one_line(parts[kind].filename), bytes(parts[kind].data)
            query = await self._decode(kind, name, data)
        milliseconds = (time.perf_counter() - start) * 1e3
        level = level_of(query) if isinstance(query, np.ndarray) and kind == "speech" else 0.0
        tell("wait")
        k = 0 if level < QUIET else k  # what would be found for silence means nothing
        answer = await self._in_thread(self.engine.search, kind, query, k, rerank, tell)
        answer["timing"] = {stage: milliseconds, **answer["timing"]}
        if isinstance(query, Said):
            answer["voices"] = [f"{voice.engine} {voice.name}" for voice in query.voices]
            query = query.waves[0]  # what is played and explained
        # A picture's file is smaller than its pixels.
        held = query if kind == "speech" else data
        answer.update(token=self._keep_query(kind, held), kind=kind, name=name)
        if kind == "speech":
            answer.update(seconds=len(query) / SAMPLE_RATE, peaks=peaks(query))
            answer.update(quiet=level < QUIET, level=level)
        return answer

    async def progress(self, request: Request) -> Response:
        """Tell the stage of a running search, '' if there is none of that name."""
        return _json({"stage": self._progress.stage(request.path_params["name"])})

    async def query(self, request: Request) -> Response:
        """Serve the recording that a search was made with, or the first voice of a text."""
        kind, query = self._queries.get(request.path_params["token"], ("", None))
        if kind != "speech":
            raise HTTPException(404, "this query is no longer held; search again")
        return Response(_wav_of(query), media_type="audio/wav")

    async def explain(self, request: Request) -> Response:
        """Explain a pair: the query that `token` names, and the item `id`, or a `span` of it."""
        token, item, span = await read_body(request)
        if token not in self._queries:
            raise HTTPException(404, "this query is no longer held; search again")
        kind, query = self._queries[token]
        if kind == "speech":
            data = await asyncio.to_thread(self.engine.pictures.read, item, self.limits.file_bytes)
            pair = query, await self._decode("picture", item, data)
        else:
            query = await self._decode("picture", "the picture", query)
            pair = await self._hear(item, span), query
        return _json(await self._in_thread(self.engine.explain, *pair))

    async def picture(self, request: Request) -> Response:
        """Serve a picture of the index: the file or, with `size=thumbnail`, a thumbnail."""
        item = request.path_params["item"]
        size = request.query_params.get("size", "")
        if size not in ("", "thumbnail"):
            raise HTTPException(400, f"size={size[:80]!r}: leave it out, or ask for 'thumbnail'")
        if not size:
            path = await asyncio.to_thread(self.engine.pictures.path, item)
            # What a browser cannot show is shown as JPEG.
            return _file(path) or Response(await self._jpeg(item, WHOLE), media_type="image/jpeg")
        if item not in self._thumbnails:
            self._thumbnails[item] = await self._jpeg(item, THUMBNAIL)
            if len(self._thumbnails) > self.limits.thumbnails:
                self._thumbnails.popitem(last=False)
        return Response(self._thumbnails[item], media_type="image/jpeg")

    async def recording(self, request: Request) -> Response:
        """Serve a recording of the index, or the range of it that the request names.

        With `span=start,end`, in seconds, that part of it is served as a WAV file.
        """
        item, span = request.path_params["item"], span_of(request.query_params.get("span"))
        if span:
            return Response(_wav_of(await self._hear(item, span)), media_type="audio/wav")
        path = await asyncio.to_thread(self.engine.recordings.path, item)
        return _file(path) or Response(
            # In a format that no browser plays.
            _wav_of(await self._hear(item, None)),
            media_type="audio/wav",
        )

    async def outline(self, request: Request) -> Response:
        """Serve the `seconds` and the `peaks` of a recording of the index, of any length."""
        return _json(await self._outlines.of(request.path_params["item"]))

    async def _jpeg(self, item: str, side: int) -> bytes:
        data = await asyncio.to_thread(self.engine.pictures.read, item, self.limits.file_bytes)
        return await self.decoders.thumbnail(one_line(item), data, self.limits.pixels, side)

    async def _hear(self, item: str, span: tuple[float, float] | None) -> np.ndarray:
        """Decode a recording of the index, or a part of it."""
        if span:
            path = await asyncio.to_thread(self.engine.recordings.path, item)
            return await self._long.span(one_line(item), path, span)
        data = await asyncio.to_thread(self.engine.recordings.read, item, self.limits.file_bytes)
        return await self.decoders.speech(one_line(item), data, self.limits.seconds)

    async def _decode(self, kind: str, name: str, data: bytes) -> np.ndarray:
        if kind == "speech":
            return await self.decoders.speech(one_line(name), data, self.limits.seconds)
        return await self.decoders.picture(one_line(name), data, self.limits.pixels)

    async def _in_thread(self, function: Callable, *args) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _keep_query(self, kind: str, query: np.ndarray | bytes) -> str:
        """Keep a query for explanations and return its token; forget the oldest queries."""
        token = secrets.token_urlsafe(16)
        self._queries[token] = kind, query
        held = self._queries.values()
        while sum(memoryview(each).nbytes for _, each in held) > self.limits.held_bytes:
            self._queries.popitem(last=False)
        return token


def make_app(engine: Engine, limits: Limits, decoders: Decoders, warm: bool = False) -> Guard:
    """Return the ASGI application of the page.

    Args:
      engine: the model and the index.
      limits: limits on requests.
      decoders: the processes that decode uploads; started and ended with the application.
      warm: whether to compile re-ranking and explanation in the background.
    """
    server = Server(engine, limits, decoders, warm)
    app = Starlette(
        routes=server.routes(),
        lifespan=server.lifespan,
        exception_handlers={
            HTTPException: lambda _, error: _error(error.status_code, error.detail),
            Refused: lambda _, error: _error(error.status, str(error)),
            # The client is gone; nobody reads this answer.
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
      limits: limits on requests.
      decoders: the processes that decode uploads; None for a pool of the default size.
      warm: whether to compile re-ranking and explanation in the background.
    """
    config = uvicorn.Config(
        make_app(engine, limits, decoders or Decoders(), warm),
        # Not uvloop: it starts processes by `fork`, which is not safe beside JAX's threads.
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


def _status(error: BadMedia) -> int:
    return 413 if error.fault in ("too long", "too large") else 415


def _typing() -> dict[str, Any]:
    """Return the languages that can be typed: [code, name] each; or why there is none."""
    languages = spoken_languages()
    why = "" if languages else missing_engines().get("espeak", "")
    return {"languages": [[code, name] for code, name in languages.items()], "mute": why}


def _wav_of(wave: np.ndarray) -> bytes:
    """Return float32 [N] at 16 kHz as a WAV file."""
    out = io.BytesIO()
    soundfile.write(out, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def _file(path: Path) -> Response | None:
    """Return a file of a format that browsers know; None for another one."""
    media_type = TYPES.get(format_of(path))
    return FileResponse(path, media_type=media_type) if media_type else None


def _json(value: Any) -> Response:
    # ASCII, because file names may contain surrogates, which UTF-8 cannot encode. NaN would not be
    # valid JSON, so it is an error.
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")


def _error(status: int, message: str) -> Response:
    body = json.dumps({"error": " ".join(message.split())})
    return Response(body, status, media_type="application/json")
