"""The contrast of the page's colours, light and dark, computed from its style sheets."""

import re
from pathlib import Path

import pytest

import sir_jax.page

STATIC = Path(sir_jax.page.__file__).parent / "static"
GROUNDS = ("paper", "card", "sunk")
# Text of a colour, and the grounds that it stands on.
TEXT = {
    "ink": (*GROUNDS, "chosen"),
    "soft": GROUNDS,
    "accent": ("card", "paper"),
    "live": ("card", "paper"),
    "patch": ("card",),
    "bad-ink": ("bad", "card"),
    "on-accent": ("accent", "live"),
}
# Marks and edges that tell what a control is, or its state.
MARKS = {"edge": GROUNDS, "accent": GROUNDS, "live": ("sunk", "band")}


def schemes() -> dict[str, dict[str, str]]:
    """Return the colours by name, of the light and the dark scheme."""
    light, dark = (STATIC / "theme.css").read_text().split("@media (prefers-color-scheme: dark)")
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", each)) for each in (light, dark)]
    return {"light": found[0], "dark": found[1]}


def luminance(colour: str) -> float:
    """Return the relative luminance as WCAG 2 defines it."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares
    ]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, bright = sorted(map(luminance, (one, other)))
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == 21 and contrast("#777777", "#777777") == 1
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("pairs, least", [(TEXT, 4.5), (MARKS, 3)])
def test_everything_can_be_read(scheme, pairs, least):
    colours = schemes()[scheme]
    low = {
        f"{front} on {ground}": round(ratio, 2)
        for front, grounds in pairs.items()
        for ground in grounds
        if (ratio := contrast(colours[front], colours[ground])) < least
    }
    assert low == {}


def test_both_schemes_have_the_same_colours():
    light, dark = schemes().values()
    assert light.keys() == dark.keys() and len(light) >= 16


def test_text_has_no_colour_of_its_own():
    """All text is in the colours above, so that their contrast is that of the page."""
    for path in STATIC.glob("*.css"):
        used = re.findall(r"(?<![-\w])color: ([^;}]+)", path.read_text())
        named = {name for value in used for name in re.findall(r"^var\(--([\w-]+)\)$", value)}
        plain = {value for value in used if not value.startswith("var(")}
        assert named <= TEXT.keys() and plain <= {"inherit", "currentcolor"}, path.name
