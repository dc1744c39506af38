"""Augmentation of waveforms: speed, reverberation, noise, telephone and gain.

Each effect is a pure function of a waveform and its parameters. `augment_wave` draws the parameters
of each effect from its own random stream, so that switching an effect on or off changes no draw of
the others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr

from sir_jax.config.check import check_section
from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.sound_folder import SoundFolder

# The band of a telephone, and the width of the filter's slopes outside it, in Hz.
PHONE_BAND = (300.0, 3400.0)
PHONE_SLOPE = 100.0
_STOP_DB = 60.0
_MU = 255.0

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """Augmentation of training waveforms; by default there is none.

    Attributes:
      speed: probability of a change of speed.
      factor: range of the speed's factor; above 1 is faster and higher in pitch.
      reverb: probability of reverberation.
      t60: range of a made room response's reverberation time, in seconds.
      direct_ratio: range of a made response's energy in the direct path over the rest, in dB.
      reverb_folder: recorded room responses, used instead of made ones; None for made ones.
      noise: probability of noise.
      snr: range of the signal-to-noise ratio in dB.
      noise_kinds: names in NOISES to choose from.
      noise_folder: recorded noise, used instead of made noise; None for made noise.
      telephone: probability of telephone sound.
      mu_law: True to code telephone sound in 8 bits, too.
      gain: probability of a change of loudness.
      gain_db: range of the gain in dB.
    """

    speed: float = 0.0
    factor: Range = (0.9, 1.1)
    reverb: float = 0.0
    t60: Range = (0.2, 0.8)
    direct_ratio: Range = (0.0, 12.0)
    reverb_folder: SoundFolder | None = None
    noise: float = 0.0
    snr: Range = (5.0, 25.0)
    noise_kinds: tuple[str, ...] = ("white", "pink", "babble")
    noise_folder: SoundFolder | None = None
    telephone: float = 0.0
    mu_law: bool = True
    gain: float = 0.0
    gain_db: Range = (-6.0, 6.0)

    @property
    def active(self) -> bool:
        """Tell whether any effect has a probability above 0."""
        return any((self.speed, self.reverb, self.noise, self.telephone, self.gain))

    @classmethod
    def from_config(cls, augment_cfg: Any) -> "AugmentSpec":
        """Read and check `data.augment`.

        Raises:
          UserError: a field is invalid. The message names it, its value and the valid values.
        """
        c, names = augment_cfg, ("speed", "reverb", "noise", "telephone", "gain")
        check_section("data.augment", c)
        return cls(
            **{name: float(c[name].probability) for name in names},
            factor=_range(c.speed.factor),
            t60=_range(c.reverb.t60),
            direct_ratio=_range(c.reverb.direct_ratio),
            reverb_folder=_folder(c, "reverb"),
            snr=_range(c.noise.snr),
            noise_kinds=tuple(c.noise.kinds),
            noise_folder=_folder(c, "noise"),
            mu_law=bool(c.telephone.mu_law),
            gain_db=_range(c.gain.db),
        )


def augment_wave(wave: np.ndarray, spec: AugmentSpec, rng: np.random.Generator) -> np.ndarray:
    """Apply each effect with its probability: speed, reverberation, noise, telephone, gain.

    Args:
      wave: float32 [N] at 16 kHz.
      spec: probabilities and ranges of the effects.
      rng: random generator; it spawns others, and its own state does not advance.

    Returns:
      float32; the length differs from N if the speed changed. `wave` itself if no effect applied.

    Raises:
      UserError: a file of `reverb_folder` or `noise_folder` cannot be decoded.
    """
    if not spec.active or not wave.size:
        return wave
    speed, reverb, noise, telephone, gain = rng.spawn(5)
    if speed.random() < spec.speed:
        wave = change_speed(wave, speed.uniform(*spec.factor))
    if reverb.random() < spec.reverb:
        if spec.reverb_folder is not None:
            response = spec.reverb_folder[int(reverb.integers(len(spec.reverb_folder)))]
            wave = add_reverb(wave, response, int(np.abs(response).argmax()))
        else:
            t60, ratio = reverb.uniform(*spec.t60), reverb.uniform(*spec.direct_ratio)
            wave = add_reverb(wave, make_response(t60, ratio, reverb), 0)
    if noise.random() < spec.noise:
        snr = noise.uniform(*spec.snr)
        if spec.noise_folder is not None:
            sound = spec.noise_folder[int(noise.integers(len(spec.noise_folder)))]
            sound = fit_length(sound, len(wave), noise)
        else:
            kind = spec.noise_kinds[int(noise.integers(len(spec.noise_kinds)))]
            sound = NOISES[kind](len(wave), noise)
        wave = add_noise(wave, sound, snr)
    if telephone.random() < spec.telephone:
        wave = narrow_band(wave, spec.mu_law)
    if gain.random() < spec.gain:
        wave = change_gain(wave, gain.uniform(*spec.gain_db))
    return wave


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Change the speed by resampling, which changes tempo and pitch together.

    Args:
      wave: float32 [N].
      factor: above 1 is faster; a tone of f Hz becomes one of f * factor Hz.

    Returns:
      float32 [N / factor], with the length rounded and at least 1 unless N is 0.
    """
    if not wave.size or factor == 1:
        return wave
    out = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    length = max(1, round(len(wave) / factor))
    return np.pad(out[:length], (0, max(0, length - len(out))))


def add_reverb(wave: np.ndarray, response: np.ndarray, direct: int) -> np.ndarray:
    """Convolve with a room's impulse response, without delay and at constant energy.

    Args:
      wave: float32 [N].
      response: float [M] at the same rate.
      direct: index of the direct path in `response`; the result starts there.

    Returns:
      float32 [N]; `wave` itself if the result would be silent.
    """
    n = len(wave)
    out = _convolve(wave, response)[direct : direct + n]
    energy = _energy(out)
    if not energy:
        return wave
    return (out * math.sqrt(_energy(wave) / energy)).astype(np.float32)


def make_response(t60: float, direct_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Make an impulse response: the direct path, followed by exponentially decaying noise.

    Args:
      t60: time in seconds in which the noise decays by 60 dB; the response ends there.
      direct_ratio: energy of the direct path over that of the noise, in dB.
      rng: random generator of the noise.

    Returns:
      float64 [t60 * 16000], rounded up. The direct path is the 1 at index 0.
    """
    n = max(2, math.ceil(t60 * SAMPLE_RATE))
    out = rng.standard_normal(n) * np.exp(-math.log(1e3) / (t60 * SAMPLE_RATE) * np.arange(n))
    out[0] = 0.0
    out *= 10 ** (-direct_ratio / 20) / math.sqrt(_energy(out))
    out[0] = 1.0
    return out


def add_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio of mean powers over the whole clip.

    Args:
      wave: float32 [N].
      noise: float [N] of any loudness.
      snr: signal-to-noise ratio in dB.

    Returns:
      float32 [N]; `wave` itself if wave or noise are silent and the ratio is undefined.
    """
    signal, power = _energy(wave), _energy(noise)
    if not (signal and power):
        return wave
    noise = noise.astype(np.float64)
    return (wave + noise * math.sqrt(signal / power / 10 ** (snr / 10))).astype(np.float32)


def fit_length(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Take a random part of a sound, or repeat a short one from a random sample on.

    Args:
      sound: [M] with M at least 1.
      length: N, the length of the result in samples.
      rng: random generator of the first sample.

    Returns:
      [N].
    """
    if len(sound) >= length:
        first = int(rng.integers(len(sound) - length + 1))
        return sound[first : first + length]
    return np.resize(np.roll(sound, -int(rng.integers(len(sound)))), length)


def white_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise of equal power at all frequencies, float32 [length]."""
    # float32 takes half the time of float64.
    return rng.standard_normal(length, np.float32)


def pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise whose power falls by 3 dB per octave, float64 [length]."""
    return _shape_noise(white_noise(length, rng), lambda hz: 1 / np.sqrt(hz))


def babble_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make the murmur of a crowd, float64 [length].

    It has four talkers without words: each is noise whose loudness varies at the rate of syllables.
    The spectrum is that of speech over a long time: flat up to 500 Hz, then falling by 9 dB per
    octave.
    """
    # Loudness is constant for 10 ms at a time: this is inaudible, and sines are slow to compute.
    step = SAMPLE_RATE // 100
    seconds = np.arange(-(-length // step)) / 100
    crowd = np.zeros(length)
    for _ in range(4):
        rate, phase = rng.uniform(2.5, 6.0), rng.uniform(0, 2 * np.pi)
        swell = (0.5 + 0.5 * np.sin(2 * np.pi * rate * seconds + phase)) ** 2
        crowd += np.repeat(swell, step)[:length] * white_noise(length, rng)
    return _shape_noise(crowd, lambda hz: np.minimum(1.0, (hz / 500) ** -1.5))


NOISES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
    "babble": babble_noise,
}


def narrow_band(wave: np.ndarray, mu_law: bool) -> np.ndarray:
    """Filter a waveform as a telephone does: it passes 300 to 3400 Hz.

    At 100 Hz outside of that band the attenuation is 60 dB.

    Args:
      wave: float32 [N].
      mu_law: True to sample at 8 kHz and code in 8 bits by the mu-law, too; samples beyond [-1, 1]
        are clipped.

    Returns:
      float32 [N] without delay.
    """
    if not wave.size:
        return wave
    band = _phone_filter()
    delay, n = len(band) // 2, len(wave)
    out = _convolve(wave, band)[delay : delay + n]
    # After the filter there is nothing above 4 kHz, so sampling at 8 kHz alone would change
    # nothing: it is only needed for the coding.
    if mu_law:
        coded = np.zeros(n)
        coded[::2] = 2 * code_mu_law(out[::2])
        out = _convolve(coded, band)[delay : delay + n]
    return out.astype(np.float32)


def code_mu_law(samples: np.ndarray) -> np.ndarray:
    """Round samples to the 255 levels of the mu-law (mu 255, 8 bits with sign); 0 stays 0.

    Args:
      samples: float [N]; values beyond [-1, 1] are clipped.

    Returns:
      float64 [N] in [-1, 1].
    """
    x = np.clip(np.asarray(samples, np.float64), -1, 1)
    level = np.rint(127 * np.log1p(_MU * np.abs(x)) / math.log1p(_MU)) / 127
    return np.sign(x) * np.expm1(level * math.log1p(_MU)) / _MU


def change_gain(wave: np.ndarray, db: float) -> np.ndarray:
    """Make a waveform louder by `db` decibels, without clipping."""
    return wave * np.float32(10 ** (db / 20))


def _energy(x: np.ndarray) -> float:
    # Not `x @ x`: BLAS would use all its threads, and their number would change the sum's rounding.
    return float(np.square(x, dtype=np.float64).sum())


@functools.cache
def _phone_filter() -> np.ndarray:
    """Return the band-pass filter: a symmetric Kaiser-windowed sinc of odd length."""
    slope = 2 * math.pi * PHONE_SLOPE / SAMPLE_RATE
    # Kaiser's formulas for the length and the window's parameter at 60 dB.
    half = math.ceil((_STOP_DB - 7.95) / (2.285 * slope) / 2)
    window = np.kaiser(2 * half + 1, 0.1102 * (_STOP_DB - 8.7))
    low, high = (
        2 * (edge + side * PHONE_SLOPE / 2) / SAMPLE_RATE
        for edge, side in zip(PHONE_BAND, (-1, 1), strict=True)
    )
    at = np.arange(-half, half + 1)
    return window * (high * np.sinc(high * at) - low * np.sinc(low * at))


def _shape_noise(noise: np.ndarray, amplitude: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Give noise a spectrum. It is zero below 20 Hz, where a 1/f spectrum has most of its power."""
    n = len(noise)
    size = _fft_size(n)
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    heard = hz >= 20
    shape = np.zeros_like(hz)
    shape[heard] = amplitude(hz[heard])
    return np.fft.irfft(np.fft.rfft(noise, size) * shape, size)[:n]


def _convolve(wave: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the full convolution, float64 [N + M - 1]."""
    # NumPy would transform float32 in float32: less exact by two digits, and hardly faster.
    wave, kernel = wave.astype(np.float64), kernel.astype(np.float64)
    m, n = len(kernel), len(wave) + len(kernel) - 1
    # With a short kernel the wave is convolved in blocks (overlap-add); with a long one at once.
    size = 1 << (4 * m - 1).bit_length()
    step = size - m + 1
    count = -(-len(wave) // step)
    if count < 3:
        size, step, count = _fft_size(n), len(wave), 1
    blocks = np.zeros((count, step))
    blocks.ravel()[: len(wave)] = wave
    blocks = np.fft.irfft(np.fft.rfft(blocks, size) * np.fft.rfft(kernel, size), size)
    if count == 1:
        return blocks[0, :n]
    out = np.zeros((count + 1, step))
    out[:-1] = blocks[:, :step]
    out[1:, : m - 1] += blocks[:, step:]
    return out.ravel()[:n]


@functools.lru_cache(maxsize=4096)
def _fft_size(least: int) -> int:
    """Return the smallest number that is at least `least` and has no prime factor above 5."""
    best, fives = 1 << (least - 1).bit_length(), 1
    while fives < best:
        odd = fives
        while odd < best:
            best = min(best, odd << max(0, (-(-least // odd) - 1).bit_length()))
            odd *= 3
        fives *= 5
    return best


def _range(values: Any) -> Range:
    least, largest = map(float, values)
    return least, largest


def _folder(cfg: Any, effect: str) -> SoundFolder | None:
    path = cfg[effect].folder
    return SoundFolder(path, f"data.augment.{effect}.folder") if path else None
