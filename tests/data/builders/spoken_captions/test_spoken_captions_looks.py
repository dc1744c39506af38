"""Which pictures look alike: copies that were changed, and not others."""

import numpy as np
import pytest
from captioned import picture
from PIL import Image, ImageDraw, ImageEnhance

from sir_jax.data.builders.spoken_captions.looks import alike, looks_of


def drawing(shape: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (160, 120), "white")
    getattr(ImageDraw.Draw(image), shape)((50, 30, 110, 90), fill=colour)
    return image


def looks(tmp_path, pictures: dict[str, tuple[Image.Image, dict]]):
    """Save pictures, and return their names and looks."""
    for name, (image, options) in pictures.items():
        image.save(tmp_path / name, **options)
    names = [*pictures]
    return names, looks_of(tmp_path, names, tmp_path / "work", 1)


def pairs(names, found) -> set[frozenset]:
    return {frozenset((names[a], names[b])) for a, b in alike(found)}


@pytest.fixture
def original():
    return picture(3, (320, 240))


def test_changed_copies_look_alike(tmp_path, original):
    brighter = ImageEnhance.Brightness(original).enhance(1.12)
    noise = np.random.default_rng(0).normal(0, 6, (240, 320, 3))
    noisy = Image.fromarray(np.clip(np.asarray(original) + noise, 0, 255).astype(np.uint8))
    copies = {
        "again.jpg": (original, {"quality": 40}),
        "small.png": (original.resize((80, 60)), {}),
        "wide.webp": (original.resize((300, 240)), {"quality": 60}),
        "bright.png": (brighter, {}),
        "noisy.jpg": (noisy, {}),
        "cut.png": (original.crop((4, 4, 318, 238)), {}),
    }
    names, found = looks(tmp_path, {"original.png": (original, {}), **copies})
    assert len({look.digest for look in found}) == len(names)
    alike_first = {name for pair in pairs(names, found) if "original.png" in pair for name in pair}
    assert alike_first == set(names)


def test_others_do_not(tmp_path, original):
    turned = original.transpose(Image.Transpose.ROTATE_180)
    others = {
        "turned.png": (turned, {}),
        "grey.png": (original.convert("L"), {}),
        **{f"{n}.png": (picture(n, (320, 240)), {}) for n in range(20, 40)},
        # Drawings on white have few bits of their own.
        "red disc.png": (drawing("ellipse", "red"), {}),
        "red square.png": (drawing("rectangle", "red"), {}),
        "blue disc.png": (drawing("ellipse", "blue"), {}),
        "white.png": (Image.new("RGB", (90, 90), "white"), {}),
        "pale.png": (Image.new("RGB", (90, 90), (250, 250, 252)), {}),
    }
    names, found = looks(tmp_path, {"original.png": (original, {}), **others})
    assert pairs(names, found) == set()


def test_same_thumbnails_are_chained_to_the_first(tmp_path):
    white = Image.new("RGB", (90, 90), "white")
    sizes = {f"{n}.png": (white.resize((90 + n, 90)), {}) for n in range(4)}
    names, found = looks(tmp_path, {"a.png": (picture(1), {}), **sizes})
    assert pairs(names, found) == {frozenset(("0.png", f"{n}.png")) for n in (1, 2, 3)}


def test_what_cannot_be_decoded_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    names, found = looks(tmp_path, {"c.png": (picture(1), {})})
    work = tmp_path / "others"
    found = looks_of(tmp_path, ["a.jpg", "b.jpg", "gone.jpg"], work, 1)
    assert found[0] == found[1] and found[0].thumbnail is None and any(found[0].digest)
    assert not any(found[2].digest)
    assert list(alike(found)) == []


def test_a_file_that_has_changed_is_looked_at_again(tmp_path):
    image = tmp_path / "a.png"
    picture(1).save(image)
    first = looks_of(tmp_path, ["a.png"], tmp_path / "work", 1)
    picture(2, (60, 40)).save(image)
    (second,) = looks_of(tmp_path, ["a.png"], tmp_path / "work", 1)
    assert second.digest != first[0].digest and second.bits != first[0].bits
