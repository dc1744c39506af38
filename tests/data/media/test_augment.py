"""Waveform augmentation: each effect against its formula, and independent random draws."""

import dataclasses
import io
import math
import pickle

import numpy as np
import pytest
import soundfile

from sir_jax.config.presets import base_config
from sir_jax.data.media.augment import (
    NOISES,
    AugmentSpec,
    add_noise,
    add_reverb,
    augment_wave,
    babble_noise,
    change_gain,
    change_speed,
    code_mu_law,
    fit_length,
    make_response,
    narrow_band,
    pink_noise,
    white_noise,
)
from sir_jax.errors import UserError

RATE = 16_000
ON = AugmentSpec(speed=1.0, reverb=1.0, noise=1.0, telephone=1.0, gain=1.0)


def clip(samples: int = 8_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hum = np.sin(np.arange(samples) * 0.1) * 0.3
    return (hum + 0.05 * rng.standard_normal(samples)).astype(np.float32)


def tone(hz: float, samples: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)).astype(np.float32)


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    """Return the power of a over that of b in dB."""
    powers = [np.square(x.astype(np.float64)).sum() for x in (a, b)]
    return 10 * math.log10(powers[0] / powers[1])


def augment_config(**fields):
    """Return `data.augment`; fields are given as effect__name=value."""
    c = base_config("tiny", "tiny").data.augment
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return c


@pytest.mark.parametrize("snr", [-20.0, 0.0, 12.5, 60.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_added_noise_has_the_requested_ratio(snr, scale):
    wave, noise = clip(), scale * np.random.default_rng(1).standard_normal(8_000)
    noisy = add_noise(wave, noise, snr)
    assert noisy.dtype == np.float32
    added = noisy.astype(np.float64) - wave
    assert decibels(wave, added) == pytest.approx(snr, abs=1e-5)
    assert np.corrcoef(added, noise)[0, 1] > 0.999999


def test_silence_has_no_ratio_and_is_returned_unchanged():
    wave, silence = clip(), np.zeros(8_000, np.float32)
    assert add_noise(silence, wave, 10.0) is silence
    assert add_noise(wave, silence, 10.0) is wave


def test_long_noise_is_cut_and_short_noise_is_repeated():
    rng = np.random.default_rng(0)
    sound = np.arange(50)
    firsts = {int(fit_length(sound, 20, rng)[0]) for _ in range(300)}
    assert firsts == set(range(31))
    for length in (20, 50, 51, 120):
        actual = fit_length(sound, length, rng)
        assert actual.shape == (length,)
        np.testing.assert_array_equal(actual, (actual[0] + np.arange(length)) % 50)


def octave_slope(noise: np.ndarray, low: float, high: float) -> float:
    """Return the slope of the power density between two frequencies, in dB per octave."""
    spectrum, hz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(len(noise), 1 / RATE)
    means = [spectrum[(hz > f / 1.1) & (hz < f * 1.1)].mean() for f in (low, high)]
    return 10 * math.log10(means[1] / means[0]) / math.log2(high / low)


def test_spectra_of_made_noise():
    n = 1 << 19
    white, pink, babble = (
        make(n, np.random.default_rng(7)) for make in (white_noise, pink_noise, babble_noise)
    )
    assert octave_slope(white, 100, 6_400) == pytest.approx(0.0, abs=0.1)
    assert octave_slope(pink, 100, 6_400) == pytest.approx(-10 * math.log10(2), abs=0.1)
    assert octave_slope(babble, 100, 400) == pytest.approx(0.0, abs=0.2)
    assert octave_slope(babble, 800, 6_400) == pytest.approx(-30 * math.log10(2), abs=0.2)
    # The loudness of a crowd varies over tenths of a second, that of white noise does not.
    loudness = [
        np.sqrt(np.square(x[: n // 1_600 * 1_600]).reshape(-1, 1_600).mean(1))
        for x in (white, babble)
    ]
    spreads = [float(x.std() / x.mean()) for x in loudness]
    assert spreads[0] < 0.05 < 0.15 < spreads[1]


@pytest.mark.parametrize(
    ("samples", "taps", "direct"),
    [(500, 900, 0), (700, 64, 20), (3, 1, 0), (900, 1, 0), (772, 64, 63), (773, 65, 3)],
)
def test_reverberation_equals_direct_convolution(samples, taps, direct):
    wave = clip(samples)
    response = np.random.default_rng(3).standard_normal(taps) * np.exp(-np.arange(taps) / 100)
    exact = np.array(
        [
            sum(
                float(wave[n + direct - k]) * float(response[k])
                for k in range(taps)
                if 0 <= n + direct - k < samples
            )
            for n in range(samples)
        ]
    )
    exact *= math.sqrt(np.square(wave.astype(np.float64)).sum() / np.square(exact).sum())
    actual = add_reverb(wave, response, direct)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, exact, atol=1e-5)
    assert decibels(actual, wave) == pytest.approx(0.0, abs=1e-5)


def test_direct_path_alone_does_not_delay():
    wave, response = clip(), np.zeros(300)
    response[120] = 0.4
    np.testing.assert_allclose(add_reverb(wave, response, 120), wave, atol=1e-6)
    assert add_reverb(wave, np.zeros(300), 0) is wave


@pytest.mark.parametrize(("t60", "ratio"), [(0.05, 0.0), (0.3, 6.0), (0.8, -10.0)])
def test_made_response_decays_as_requested(t60, ratio):
    response = make_response(t60, ratio, np.random.default_rng(0))
    assert len(response) == math.ceil(t60 * RATE) and response[0] == 1.0
    tail = response[1:]
    assert decibels(response[:1], tail) == pytest.approx(ratio, abs=1e-9)
    # Schroeder's backward integral falls by 60 dB in t60. Its end is cut off, so the slope is
    # measured before.
    energy = 10 * np.log10(np.cumsum(np.square(tail)[::-1])[::-1])
    first, last = len(tail) // 20, len(tail) // 2
    slope = (energy[last] - energy[first]) / ((last - first) / RATE)
    assert slope == pytest.approx(-60 / t60, rel=0.1)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0437, 1.1, 2.0])
def test_speed_moves_a_tone_and_the_length(factor):
    out = change_speed(tone(600.0), factor)
    assert out.dtype == np.float32 and out.shape == (round(RATE / factor),)
    window = np.hanning(len(out))
    spectrum = np.abs(np.fft.rfft(out * window, 1 << 18))
    peak = np.fft.rfftfreq(1 << 18, 1 / RATE)[spectrum.argmax()]
    assert peak == pytest.approx(600 * factor, abs=0.2)


def test_speed_of_tiny_clips():
    for samples in (1, 2, 3, 7):
        for factor in (0.5, 0.97, 1.9, 2.0):
            out = change_speed(clip(samples), factor)
            assert len(out) == max(1, round(samples / factor)) and np.isfinite(out).all()
    wave = clip(10)
    assert change_speed(wave, 1.0) is wave


@pytest.mark.parametrize("hz", [50, 100, 150, 200, 3_500, 3_600, 4_000, 6_000, 7_900])
def test_telephone_stops_tones_outside_its_band(hz):
    out = narrow_band(tone(hz), mu_law=False)
    # Without the ends, where the sudden onset of the tone has all frequencies.
    inner = slice(1_000, -1_000)
    assert decibels(out[inner], tone(hz)[inner]) < -60


@pytest.mark.parametrize("hz", [300, 500, 1_000, 2_000, 3_000, 3_400])
@pytest.mark.parametrize("mu_law", [False, True])
def test_telephone_passes_tones_inside_its_band_without_delay(hz, mu_law):
    out, inner = narrow_band(tone(hz), mu_law), slice(1_000, -1_000)
    error = out[inner].astype(np.float64) - tone(hz)[inner]
    assert decibels(tone(hz)[inner], error) > (30 if mu_law else 55)
    assert len(out) == RATE and out.dtype == np.float32


def test_mu_law_has_the_expected_levels():
    # Level 64 of 127.
    level = (256 ** (64 / 127) - 1) / 255
    samples = np.array([0.0, 1.0, -1.0, 3.0, level, -level, level * 1.01, 1e-6])
    expected = [0.0, 1.0, -1.0, 1.0, level, -level, level, 0.0]
    np.testing.assert_allclose(code_mu_law(samples), expected, atol=1e-12)
    assert len(np.unique(code_mu_law(np.linspace(-1, 1, 100_001)))) == 255


def test_coding_adds_noise_only_inside_the_band():
    wave = clip(RATE)
    noise = narrow_band(wave, True).astype(np.float64) - narrow_band(wave, False)
    spectrum = np.abs(np.fft.rfft(noise * np.hanning(RATE))) ** 2
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    inside = spectrum[(hz > 195) & (hz < 3_505)].sum()
    assert 0 < spectrum[(hz < 195) | (hz > 3_505)].sum() < 1e-5 * inside


def test_gain_is_in_decibels():
    wave = clip()
    np.testing.assert_allclose(change_gain(wave, 20.0), 10 * wave, rtol=1e-6)
    assert decibels(change_gain(wave, -7.0), wave) == pytest.approx(-7.0, abs=1e-5)
    assert change_gain(wave, 3.0).dtype == np.float32


def test_by_default_nothing_is_changed():
    wave, rng = clip(), np.random.default_rng(0)
    assert not AugmentSpec().active
    assert augment_wave(wave, AugmentSpec(), rng) is wave
    assert augment_wave(wave[:0], ON, rng).size == 0
    assert AugmentSpec.from_config(augment_config()) == AugmentSpec()


def test_effects_apply_in_order_with_draws_of_their_own_streams():
    wave = clip()
    actual = augment_wave(wave, ON, np.random.default_rng(4))
    speed, reverb, noise, telephone, gain = np.random.default_rng(4).spawn(5)
    for stream in (speed, reverb, noise, telephone, gain):
        stream.random()
    expected = change_speed(wave, speed.uniform(0.9, 1.1))
    t60, ratio = reverb.uniform(0.2, 0.8), reverb.uniform(0.0, 12.0)
    expected = add_reverb(expected, make_response(t60, ratio, reverb), 0)
    snr = noise.uniform(5.0, 25.0)
    kind = ON.noise_kinds[int(noise.integers(3))]
    expected = add_noise(expected, NOISES[kind](len(expected), noise), snr)
    expected = change_gain(narrow_band(expected, True), gain.uniform(-6.0, 6.0))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("other", ["speed", "reverb", "noise", "telephone"])
def test_an_effect_changes_no_draw_of_another_effect_or_of_the_caller(other):
    # Gain is the last effect, so its draw can be measured in the result.
    wave = clip()
    alone, both = AugmentSpec(gain=1.0), dataclasses.replace(AugmentSpec(gain=1.0), **{other: 1.0})
    without = dataclasses.replace(both, gain=0.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        gain = decibels(augment_wave(wave, alone, rng), wave)
        before = rng.bit_generator.state
        loud = augment_wave(wave, both, np.random.default_rng(seed))
        soft = augment_wave(wave, without, np.random.default_rng(seed))
        assert decibels(loud, soft) == pytest.approx(gain, abs=1e-4)
        assert before == np.random.default_rng(seed).bit_generator.state


@pytest.mark.parametrize("effect", ["speed", "reverb", "noise", "telephone", "gain"])
def test_each_effect_occurs_with_its_probability(effect):
    spec, wave = AugmentSpec(**{effect: 0.3}, t60=(0.05, 0.05)), clip(400)
    changed = sum(
        augment_wave(wave, spec, np.random.default_rng((9, i))) is not wave for i in range(1_000)
    )
    # Binomial(1000, 0.3) has a standard deviation of 14.5.
    assert abs(changed - 300) < 65


def write(path, sound: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format="WAV", subtype="FLOAT")
    path.write_bytes(buffer.getvalue())


def test_noise_and_rooms_from_folders(tmp_path):
    sound = 0.2 * np.random.default_rng(2).standard_normal(3_000).astype(np.float32)
    write(tmp_path / "noise" / "a.wav", sound)
    response = np.zeros(500, np.float32)
    response[[40, 300]] = 0.5, -0.25
    write(tmp_path / "rooms" / "hall.wav", response)
    spec = AugmentSpec.from_config(
        augment_config(
            noise__probability=1.0, noise__folder=str(tmp_path / "noise"), noise__snr=(9.0, 9.0)
        )
    )
    wave = clip()
    added = augment_wave(wave, spec, np.random.default_rng(1)).astype(np.float64) - wave
    assert decibels(wave, added) == pytest.approx(9.0, abs=1e-5)
    shifts = [np.corrcoef(added[:3_000], np.roll(sound, -k))[0, 1] for k in range(3_000)]
    assert max(shifts) > 0.9999

    spec = AugmentSpec.from_config(
        augment_config(reverb__probability=1.0, reverb__folder=str(tmp_path / "rooms"))
    )
    expected = add_reverb(wave, response, 40)
    np.testing.assert_array_equal(augment_wave(wave, spec, np.random.default_rng(0)), expected)
    echo = np.zeros(8_000)
    echo[260:] = -0.5 * wave[:-260]
    np.testing.assert_allclose(
        expected / np.abs(expected).max(), (wave + echo) / np.abs(wave + echo).max(), atol=1e-5
    )
    twin = pickle.loads(pickle.dumps(spec))
    assert len(pickle.dumps(spec)) < 2_000
    np.testing.assert_array_equal(augment_wave(wave, twin, np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speed__probability": 1.5}, r"augment.speed.probability=1.5: must be from 0 to 1"),
        ({"noise__probability": -0.1}, r"augment.noise.probability=-0.1"),
        ({"speed__factor": (0.1, 1.0)}, r"augment.speed.factor=\(0.1, 1.0\).* from 0.5 to 2"),
        ({"noise__snr": (20.0, 5.0)}, r"augment.noise.snr=\(20.0, 5.0\): .*rising"),
        ({"noise__snr": (float("nan"), 5.0)}, r"augment.noise.snr=\(nan, 5.0\)"),
        ({"reverb__t60": (0.0, 1.0)}, r"augment.reverb.t60"),
        ({"reverb__direct_ratio": (0.0,)}, r"augment.reverb.direct_ratio=\(0.0,\)"),
        ({"gain__db": (-90.0, 0.0)}, r"augment.gain.db"),
        ({"noise__kinds": ()}, r"augment.noise.kinds=\(\): must be at least one of white, pink"),
        ({"noise__kinds": ("brown",)}, r"augment.noise.kinds=\('brown',\)"),
        ({"noise__folder": "nowhere"}, r"augment.noise.folder='nowhere': no such folder"),
        ({"reverb__folder": "nowhere"}, r"augment.reverb.folder='nowhere'"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message) as error:
        AugmentSpec.from_config(augment_config(**fields))
    assert "\n" not in str(error.value)
