"""Render a scene as an anti-aliased image.

Geometry is in units of the image's side, x to the right, y down. Details that captions do not
mention (exact position, tilt, shade, phase of the background) come from a seed, the scene's looks.
"""

import io
import itertools
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from sir_jax.data.builders.spoken_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
)

# Scenes are drawn this many times larger and then averaged.
SUPERSAMPLE = 4

_RGB = {
    "red": (214, 40, 46),
    "orange": (247, 137, 24),
    "yellow": (250, 220, 50),
    "green": (46, 150, 62),
    "blue": (38, 84, 214),
    "purple": (128, 58, 176),
    "pink": (247, 140, 192),
    "brown": (122, 76, 40),
    "black": (34, 34, 40),
    "turquoise": (44, 200, 200),
}
_RADIUS = (0.085, 0.13, 0.19)  # small, medium, large
_CROWDED = 0.72  # scale of objects if neighbouring cells may both hold one
_MARGIN = 0.014
_CENTRES = (0.215, 0.5, 0.785)  # of the columns and rows of the 3 x 3 grid


def _arc(cx, cy, rx, ry, start=0.0, end=360.0, points=48) -> np.ndarray:
    angle = np.radians(np.linspace(start, end, points, endpoint=end - start < 360))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 15.5], axis=1)


def _moon() -> np.ndarray:
    # The outer unit circle meets the inner circle, centred at (offset, 0), at angles of +-edge.
    edge, offset = 56.0, 0.55
    x, y = math.cos(math.radians(edge)), math.sin(math.radians(edge))
    turn = math.degrees(math.atan2(y, x - offset))
    outer_arc = _arc(0, 0, 1, 1, edge, 360 - edge)
    inner_arc = _arc(offset, 0, *[math.hypot(x - offset, y)] * 2, turn, 360 - turn)[::-1]
    return 1.05 * np.concatenate([outer_arc, inner_arc]) + (0.2, 0)


def _star() -> np.ndarray:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.46)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _flower() -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    radius = 0.62 + 0.40 * np.abs(np.cos(2.5 * angle))
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _fish() -> np.ndarray:
    body = _arc(0.18, 0, 0.82, 0.58, 205, 515)
    return np.concatenate([body, [(-1.0, 0.58), (-0.82, 0.0), (-1.0, -0.58)]])


def _cross() -> np.ndarray:
    a, b = 0.36, 0.98
    return np.array(
        [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    )


# Outlines, each roughly within the unit circle.
_OUTLINES = {
    "circle": _arc(0, 0, 0.95, 0.95, points=72),
    "square": np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]),
    "triangle": np.array([(0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),
    "star": _star(),
    "heart": _heart(),
    "moon": _moon(),
    "cross": _cross(),
    "arrow": np.array(
        [(1.05, 0), (0.2, -0.85), (0.2, -0.34), (-1, -0.34), (-1, 0.34), (0.2, 0.34), (0.2, 0.85)]
    ),
    "diamond": np.array([(0, -1.08), (0.74, 0), (0, 1.08), (-0.74, 0)]),
    "flower": _flower(),
    "fish": _fish(),
    "house": np.array(
        [
            (0, -1.0),
            (1.0, -0.1),
            (0.74, -0.1),
            (0.74, 0.92),
            (-0.74, 0.92),
            (-0.74, -0.1),
            (-1.0, -0.1),
        ]
    ),
}
# Polygons drawn over the outline, each with a shade (below 1 darker, above 1 lighter).
_DETAILS = {
    "flower": [(_arc(0, 0, 0.3, 0.3), 1.75)],
    "fish": [(_arc(0.6, -0.14, 0.12, 0.12), 0.25)],
    "house": [
        (np.array([(-0.2, 0.92), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.92)]), 0.45),
    ],
}


def _shade(rgb, factor: float) -> tuple[int, int, int]:
    """Darken a colour with a factor below 1, lighten it with a factor above 1."""
    if factor <= 1:
        return tuple(round(c * factor) for c in rgb)
    return tuple(round(c + (255 - c) * min(1.0, factor - 1)) for c in rgb)


def _draw_background(draw: ImageDraw.ImageDraw, background: str, side: int, rng) -> None:
    paper = tuple(int(c) for c in rng.integers(224, 240, size=3))
    ink = _shade(paper, 0.83)
    draw.rectangle((0, 0, side, side), fill=paper)
    step = side / 10
    x0, y0 = rng.uniform(0, step, size=2)
    if background == "striped":
        for i in range(-11, 11):
            x = 2 * i * step + x0
            draw.polygon([(x, side), (x + step, side), (x + step + side, 0), (x + side, 0)], ink)
    elif background == "dotted":
        for row in range(-1, 9):
            for column in range(-1, 9):
                x = (column + row % 2 / 2) * 1.4 * step + x0
                y = row * 1.4 * step + y0
                r = 0.34 * step
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif background == "checkered":
        for row in range(-1, 11):
            for column in range(-1 + row % 2, 11, 2):
                x, y = column * step + x0, row * step + y0
                draw.rectangle((x, y, x + step, y + step), fill=ink)


def _draw_object(
    draw: ImageDraw.ImageDraw, thing: SceneObject, scale: float, side: int, rng
) -> None:
    name = SHAPES[thing.shape]
    centre = np.array([_CENTRES[thing.place % 3], _CENTRES[thing.place // 3]])
    centre = centre + rng.uniform(-0.02, 0.02, size=2)
    radius = scale * _RADIUS[thing.size] * rng.uniform(0.95, 1.05)
    tilt = math.radians(rng.uniform(-10, 10))
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    rgb = tuple(int(np.clip(c + rng.integers(-8, 9), 0, 255)) for c in _RGB[COLOURS[thing.colour]])

    turned = radius * (_OUTLINES[name] @ turn)
    # Moved so that the image's edge cuts no part of a large object.
    centre = np.clip(centre, _MARGIN - turned.min(axis=0), 1 - _MARGIN - turned.max(axis=0))

    def to_pixels(outline):
        return [tuple(p) for p in side * (centre + radius * (outline @ turn))]

    points = to_pixels(_OUTLINES[name])
    draw.polygon(points, fill=rgb)
    edge = max(2, round(side * 0.012))
    draw.line([*points, points[0], points[1]], fill=_shade(rgb, 0.6), width=edge, joint="curve")
    for outline, factor in _DETAILS.get(name, ()):
        draw.polygon(to_pixels(outline), fill=_shade(rgb, factor))


def render(scene: Scene, size: int, looks: tuple[int, ...]) -> Image.Image:
    """Render a scene.

    Args:
      scene: the scene.
      size: side of the image in pixels.
      looks: seed of the details that captions do not mention.

    Returns:
      An RGB image of size x size pixels.
    """
    *_, picture = _stages(scene, size, looks)
    return picture.reduce(SUPERSAMPLE)


def object_masks(scene: Scene, size: int, looks: tuple[int, ...]) -> np.ndarray:
    """Return for each object which pixels of the rendered image show it.

    Args:
      scene: the scene, as given to `render`.
      size: side of the image in pixels, as given to `render`.
      looks: seed of the details, as given to `render`.

    Returns:
      bool [objects, size, size], in the order of `scene.objects`.
    """
    stages = [np.asarray(stage.reduce(SUPERSAMPLE)) for stage in _stages(scene, size, looks)]
    changed = [(a != b).any(axis=-1) for a, b in itertools.pairwise(stages)]
    return np.stack(changed) if changed else np.zeros((0, size, size), bool)


def _stages(scene: Scene, size: int, looks: tuple[int, ...]) -> Iterator[Image.Image]:
    """Yield the supersampled image with the background alone, then after each object."""
    side = size * SUPERSAMPLE
    rng = np.random.default_rng([2, *looks])
    picture = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(picture)
    _draw_background(draw, BACKGROUNDS[scene.background], side, rng)
    yield picture
    scale = _CROWDED if len(scene.objects) > 2 else 1.0
    for thing in scene.objects:
        _draw_object(draw, thing, scale, side, rng)
        yield picture


def encode_png(picture: Image.Image) -> bytes:
    """Encode an image as PNG."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=6)
    return stream.getvalue()
