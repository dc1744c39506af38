"""Checks of every request before the page's own code sees it, and headers of every answer.

Another site's page in the same browser can send requests to this machine, and by DNS rebinding it
can even read the answers. So the server accepts requests only under fixed host names and only from
its own page. It also limits the size of a body while it arrives, and the number of requests that
wait.
"""

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable

JSON_BYTES = 1 << 16
OVERRUN = "sir_jax.overrun"  # set in the scope of a request whose body is too long
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # A later server at the same address may serve another index with the same ids.
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's loopback; asks no resolver."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Refused(Exception):
    """Raised to end a request with a status and a message of one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Guard:
    """An ASGI application that wraps another one with the checks of this module."""

    def __init__(
        self,
        app: Callable,
        allowed: Callable[[str], bool],
        upload_bytes: int,
        posts: int,
        seconds: float,
    ):
        """Wrap an application.

        Args:
          app: the ASGI application of the page.
          allowed: tells whether the server may be addressed by a host name or address.
          upload_bytes: most bytes in the body of a search.
          posts: most searches and explanations at once, waiting ones included.
          seconds: most seconds that a search or explanation may take.
        """
        self.app, self.allowed, self.upload_bytes = app, allowed, upload_bytes
        self.posts, self.seconds = posts, seconds
        self._running = 0

    async def __call__(self, scope, receive, send) -> None:
        """Serve one request, or pass on another event of the server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                    # Without it, the server would go on reading a body that never ends.
                    *([(b"connection", b"close")] if OVERRUN in scope else []),
                ]
            await send(message)

        try:
            self._check(scope)
            receive = self._limit_body(scope, receive)
            if scope["method"] == "POST":
                await self._limit_posts(self.app(scope, receive, send_with_headers))
            else:
                await self.app(scope, receive, send_with_headers)
        except Refused as refused:
            if started:
                raise
            await _answer(send_with_headers, refused)
        except asyncio.CancelledError:
            # Ctrl-C cancels a running search; without an answer uvicorn would print a traceback.
            if not started:
                await _answer(send_with_headers, Refused(503, "the server ends"))

    def _check(self, scope) -> None:
        """Refuse a request that comes neither from this page nor from a local program."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host[1:].split("]")[0] if host.startswith("[") else host.split(":")[0]
        if not self.allowed(name):
            raise Refused(400, f"this page is not {name[:80]!r}; call it by its own address")
        site = headers.get(b"sec-fetch-site", b"none")
        if scope["path"].startswith("/api/") and site not in (b"same-origin", b"none"):
            raise Refused(403, "the request comes from another site's page")
        origin = headers.get(b"origin")
        if scope["method"] == "POST" and origin not in (None, f"http://{host}".encode()):
            raise Refused(403, "the request comes from another site's page")

    def _limit_body(self, scope, receive) -> Callable[[], Awaitable[dict]]:
        """Wrap `receive` so that it refuses a body that is too long."""
        limit = self.upload_bytes if scope["path"] == "/api/search" else JSON_BYTES
        count = 0

        async def counted() -> dict:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            # A browser shows the answer only after it has sent the body. So a body of up to twice
            # the limit is received and dropped.
            while limit < count <= 2 * limit and message.get("more_body"):
                message = await receive()
                count += len(message.get("body", b""))
            if count > limit:
                if message.get("more_body"):
                    scope[OVERRUN] = True
                raise Refused(413, f"more than {limit / 1e6:g} MB; send a smaller file")
            return message

        return counted

    async def _limit_posts(self, work: Awaitable) -> None:
        if self._running >= self.posts:
            work.close()
            raise Refused(503, "too many requests wait already; try again in a moment")
        self._running += 1
        try:
            async with asyncio.timeout(self.seconds):
                await work
        except TimeoutError:
            raise Refused(503, f"no answer within {self.seconds:g} s; try again later") from None
        finally:
            self._running -= 1


async def _answer(send, refused: Refused) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
