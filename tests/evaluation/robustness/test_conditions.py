"""Each condition does what its name says, by its seed and its item alone."""

import math

import numpy as np
import pytest
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.evaluation.robustness.conditions import PICTURE, SOUND, all_conditions, choose

RATE = 16_000
GRID = {condition.name: condition for condition in all_conditions()}


def wave() -> np.ndarray:
    time = np.arange(RATE) / RATE
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time)
    return (0.3 * swell * np.sin(2 * np.pi * 500 * time)).astype(np.float32)


def other(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(5_000).astype(np.float32)


def heard(name: str, seed: int = 0, item: int = 7) -> np.ndarray:
    condition = GRID[name]
    assert condition.side == SOUND
    return condition.apply(wave(), condition.stream(seed, item), other)


def seen(name: str, picture: Image.Image, item: int = 7) -> Image.Image:
    condition = GRID[name]
    assert condition.side == PICTURE
    return condition.apply(picture, condition.stream(0, item), 64)


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8))


def test_names_are_unique_and_families_can_be_chosen():
    assert len(GRID) == len(all_conditions()) == 55
    assert [c.name for c in choose(["speed"])] == [f"speed {x} x" for x in (0.8, 0.9, 1.1, 1.25)]
    assert [c.name for c in choose([])] == list(GRID)
    assert choose(["clean"]) == ()
    with pytest.raises(UserError, match="no 'louder'; choose among clean, white noise, pink"):
        choose(["louder"])


@pytest.mark.parametrize("kind", ["white noise", "pink noise", "babble"])
@pytest.mark.parametrize("snr", [20, 0, -5])
def test_noise_has_its_ratio(kind, snr):
    added = heard(f"{kind} {snr} dB").astype(np.float64) - wave()
    powers = [np.square(x).sum(dtype=np.float64) for x in (wave(), added)]
    assert 10 * math.log10(powers[0] / powers[1]) == pytest.approx(snr, abs=1e-3)


def test_babble_is_of_other_recordings():
    asked = []

    def ask(rng):
        asked.append(other(rng))
        return asked[-1]

    condition = GRID["babble 10 dB"]
    out = condition.apply(wave(), condition.stream(0, 1), ask)
    assert len(asked) == 4
    silent = condition.apply(wave(), condition.stream(0, 1), lambda rng: np.zeros(0, np.float32))
    np.testing.assert_array_equal(silent, wave())
    assert not np.array_equal(out, silent)


def test_lengths_levels_and_bands():
    assert len(heard("speed 0.8 x")) == 20_000 and len(heard("speed 1.25 x")) == 12_800
    both = heard("silence 2 s before, 1 s after")
    np.testing.assert_array_equal(both[2 * RATE : 3 * RATE], wave())
    assert len(both) == 4 * RATE and not both[: 2 * RATE].any() and not both[3 * RATE :].any()
    np.testing.assert_allclose(heard("gain -40 dB"), wave() / 100, rtol=1e-5)
    ceiling = np.abs(wave()).max() * 10 ** (-12 / 20)
    assert np.abs(heard("clipping 12 dB")).max() == pytest.approx(ceiling, rel=1e-5)
    for name in ("telephone 8 kHz", "telephone mu-law", "MP3 8 kbit/s", "Opus 6 kbit/s"):
        out = heard(name)
        assert len(out) == RATE and np.corrcoef(out, wave())[0, 1] > 0.9
    tail = heard("reverberation 0.5 s")
    assert len(tail) == RATE and 0.2 < np.corrcoef(tail, wave())[0, 1] < 0.98


def test_draws_depend_on_seed_item_and_name():
    name = "white noise 10 dB"
    np.testing.assert_array_equal(heard(name), heard(name))
    assert not np.array_equal(heard(name), heard(name, seed=1))
    assert not np.array_equal(heard(name), heard(name, item=8))
    noises = [heard(f"white noise {snr} dB").astype(float) - wave() for snr in (10, 0)]
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.05


def test_pictures():
    whole = picture()
    assert seen("crop 0.4 of area", whole).size == (81, 61)
    assert seen("downscaled 0.25 of input", whole).size == (21, 16)
    grey = np.asarray(seen("grey", whole))
    assert (grey == grey[..., :1]).all() and grey.shape == (96, 128, 3)
    plain = np.asarray(whole, float)
    spread = [
        np.asarray(seen(f"blur {x} % of side", whole), float).std() for x in ("0.5", "1", "2")
    ]
    assert plain.std() > spread[0] > spread[1] > spread[2]
    worse = [
        np.abs(np.asarray(seen(f"JPEG quality {q}", whole), float) - plain).mean()
        for q in (50, 20, 10, 5)
    ]
    assert 0 < worse[0] < worse[1] < worse[2] < worse[3]
    turned = [seen("rotation 20 degrees", whole, item) for item in range(8)]
    assert {t.size for t in turned} == {whole.size}
    assert len({t.tobytes() for t in turned}) == 2  # either way
    corner = np.asarray(turned[0])[0, 0]
    np.testing.assert_allclose(corner, plain.reshape(-1, 3).mean(0), atol=1)
