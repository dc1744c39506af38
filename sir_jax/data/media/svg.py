"""Draw an SVG file as PNG, by resvg, after what could harm is out of it.

What resvg gets is written anew from the parsed file: without entities, scripts and references to
other files. What would grow beyond bounds is refused before that.
"""

import contextlib
import math
import re
import resource
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.parsers import expat

from sir_jax.errors import BadMedia, UserError

MAX_BYTES = 8 << 20
MAX_DEPTH = 200
MAX_ELEMENTS = 100_000
MAX_ASPECT = 16
# Address space that drawing may take beyond what the process has.
MAX_MEMORY = 2 << 30
_MAX_ENTITY = 1024

_SVG = "{http://www.w3.org/2000/svg}"
_HREFS = ("href", "{http://www.w3.org/1999/xlink}href")
_BLIND = {f"{_SVG}{name}" for name in ("script", "foreignObject")}
_PICTURE = re.compile(r"\s*data:image/(png|jpe?g|gif|webp)[;,]")
_LENGTH = re.compile(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(px|pt|pc|mm|cm|in)?\s*")
_UNITS = {"pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}


def require_resvg():
    """Return the resvg_py module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise UserError(
            "resvg_py, which draws SVG pictures, is not installed; run: pip install "
            "'sir_jax[stamps]'"
        ) from None
    return resvg_py


def draw_svg(data: bytes, label: str, side: int) -> bytes:
    """Draw an SVG file.

    No font is used, so that the result is the same on every machine; text that is no path is not
    drawn.

    Args:
      data: the whole file.
      label: the picture's name in messages.
      side: length in pixels of the longer side of the result.

    Returns:
      A PNG file with transparency.

    Raises:
      BadMedia: the file is broken, or would take too much to draw.
      UserError: resvg_py is not installed.
    """
    resvg = require_resvg()
    root = _parse(data, label)
    _strip(root)
    _count(root, label)
    width, height = _size(root, label)
    text = ElementTree.tostring(root, encoding="unicode")
    # With its default of 0 dots an inch, lengths in points would be 0.
    options = {"dpi": 96.0, "skip_system_fonts": True}
    options["width" if width >= height else "height"] = side
    with _less_memory():
        try:
            return bytes(resvg.svg_to_bytes(svg_string=text, **options))
        except ValueError as error:
            raise _broken(label, error) from None


def _parse(data: bytes, label: str) -> ElementTree.Element:
    """Return the root of a file without entities of entities, and with bounded depth and size."""
    if len(data) > MAX_BYTES:
        raise _bomb(label, f"{len(data):,} bytes, at most {MAX_BYTES:,}")
    depth = elements = 0

    def start(name, attributes):
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MAX_DEPTH:
            raise _bomb(label, f"elements lie more than {MAX_DEPTH} deep")
        if elements > MAX_ELEMENTS:
            raise _bomb(label, f"more than {MAX_ELEMENTS:,} elements")

    def end(name):
        nonlocal depth
        depth -= 1

    def entity(name, _parameter, value, _base, system, _public, _notation):
        if value is None:
            raise BadMedia(f"{label}: SVG with the external entity {name!r} ({system})")
        if len(value) > _MAX_ENTITY or "&" in value or "%" in value:
            raise _bomb(label, f"its entity {name!r} expands to others, or is long")

    scan = expat.ParserCreate()
    scan.StartElementHandler, scan.EndElementHandler = start, end
    scan.EntityDeclHandler = entity
    try:
        scan.Parse(data, True)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise _broken(label, error) from None
    if root.tag != f"{_SVG}svg":
        raise BadMedia(f"{label}: no SVG picture, its root is {root.tag[:60]!r}")
    return root


def _strip(root: ElementTree.Element) -> None:
    """Take out scripts, and what refers to other files."""
    for element in root.iter():
        for child in [child for child in element if child.tag in _BLIND]:
            element.remove(child)
        for name in _HREFS:
            target = element.get(name, "#")
            if not target.startswith("#") and not _PICTURE.match(target):
                del element.attrib[name]


def _count(root: ElementTree.Element, label: str) -> None:
    """Refuse a file whose elements, each as often as <use> repeats it, are too many."""
    named = {element.get("id"): element for element in root.iter() if element.get("id")}
    counts: dict[ElementTree.Element, int] = {}

    def count(element: ElementTree.Element, above: frozenset) -> int:
        if element in above:
            return 0  # a circle, which resvg does not draw
        if element not in counts:
            above = above | {element}
            total = 1 + sum(count(child, above) for child in element)
            targets = {element.get(name, "")[1:] for name in _HREFS}
            total += sum(count(named[key], above) for key in targets if key in named)
            counts[element] = total
        if counts[element] > MAX_ELEMENTS:
            raise _bomb(label, f"<use> repeats its shapes more than {MAX_ELEMENTS:,} times")
        return counts[element]

    try:
        count(root, frozenset())
    except RecursionError:
        raise _bomb(label, "its shapes refer to each other in too long a chain") from None


def _size(root: ElementTree.Element, label: str) -> tuple[float, float]:
    """Return width and height, in any unit.

    Raises:
      BadMedia: they are missing, or a picture of that shape would be too large.
    """
    sides = [_pixels(root.get(name, "")) for name in ("width", "height")]
    if not all(sides):
        box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
        try:
            sides = [float(number) for number in box[2:4]]
        except ValueError:
            sides = []
    if len(sides) < 2 or not all(math.isfinite(s) and s > 0 for s in sides):
        raise BadMedia(f"{label}: SVG without a width and a height, or a viewBox")
    if max(sides) > MAX_ASPECT * min(sides):
        raise BadMedia(
            f"{label}: SVG of {sides[0]:g} x {sides[1]:g}, more than {MAX_ASPECT} times as long as "
            "wide",
            "too large",
        )
    return sides[0], sides[1]


def _pixels(length: str) -> float:
    """Return a length in pixels; 0.0 if it depends on the page, or is none."""
    match = _LENGTH.fullmatch(length)
    try:
        return float(match[1]) * _UNITS.get(match[2], 1.0) if match else 0.0
    except ValueError:
        return 0.0


@contextlib.contextmanager
def _less_memory() -> Iterator[None]:
    """Limit the memory of this process: without it the machine would go down with the picture."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    limit = used + MAX_MEMORY
    fewer = limit if soft == resource.RLIM_INFINITY else min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (fewer, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _bomb(label: str, why: str) -> BadMedia:
    return BadMedia(f"{label}: SVG that would take too much to draw: {why}", "too large")


def _broken(label: str, error: Exception) -> BadMedia:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return BadMedia(f"{label}: broken SVG ({reason}); replace or remove it")
