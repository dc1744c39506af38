"""What the requests of a search and an explanation hold, checked."""

import json
import math

from starlette.exceptions import HTTPException
from starlette.requests import Request

from sir_jax.errors import UserError
from sir_jax.page.form import TEXT, Part

MOST_SPAN = 60.0  # seconds


def whole_number(parts: dict[str, Part], name: str, default: int, low: int, high: int) -> int:
    """Return a number of a form, `default` where it is not there.

    Raises:
      UserError: it is no whole number from `low` to `high`.
    """
    if name not in parts:
        return default
    text = bytes(parts[name].data)
    if not text.isdigit() or not low <= int(text) <= high:
        shown = text.decode("ascii", "replace")
        raise UserError(f"{name}={shown!r} is not a whole number from {low} to {high}")
    return int(text)


def kind_of_form(parts: dict[str, Part]) -> str:
    """Return 'speech', 'picture' or 'say', which of them a form holds."""
    files = [part.name for part in parts.values() if part.filename is not None]
    if TEXT in parts and not files:
        return TEXT
    if files not in (["speech"], ["picture"]) or TEXT in parts:
        raise UserError(f"send one file, as part 'speech' or 'picture', or words, as part {TEXT!r}")
    return files[0]


def text_of(parts: dict[str, Part], name: str) -> str:
    """Return a text of a form, 'en' where it is not there."""
    return bytes(parts[name].data).decode("utf-8", "replace") if name in parts else "en"


async def read_body(request: Request) -> tuple[str, str, tuple[float, float] | None]:
    """Return the strings `token` and `id` of a request's body, and its `span`.

    Raises:
      HTTPException: it is no such JSON.
      UserError: see `span_of`.
    """
    try:
        body = json.loads(await request.body())
        token, item = (body[name] + "" for name in ("token", "id"))
        span = body.get("span")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise HTTPException(400, 'send JSON: {"token": "...", "id": "..."}') from None
    return token, item, span_of(span)


def span_of(given) -> tuple[float, float] | None:
    """Return the seconds of a recording that are wanted; None for all.

    Args:
      given: 'start,end', [start, end], or nothing.

    Raises:
      UserError: it is something else, or too long.
    """
    if not given:
        return None
    try:
        start, end = map(float, given.split(",") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        start = end = math.nan
    if not 0 <= start < end <= start + MOST_SPAN or math.isinf(end):
        raise UserError(
            f"span={str(given)[:80]!r} is not 'start,end' in seconds, at most {MOST_SPAN:g} apart"
        )
    return start, end


def one_line(name: str) -> str:
    """Return a file name for messages: without folders, printable, at most 80 characters."""
    name = "".join(each if each.isprintable() else " " for each in name)
    return name.replace("\\", "/").rsplit("/", 1)[-1].strip()[-80:] or "the file"
