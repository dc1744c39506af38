"""All effects on one clip, each drawn from its own random stream."""

import math

import numpy as np

from sir_jax.data.media.augment.channel import change_gain, clip_peaks, narrow_band
from sir_jax.data.media.augment.codec import CODECS
from sir_jax.data.media.augment.fourier import energy
from sir_jax.data.media.augment.mask import draw_bands, draw_stretches, mask_bands, mask_time
from sir_jax.data.media.augment.noise import NOISES, add_noise, fit_length
from sir_jax.data.media.augment.reverb import add_reverb, make_response
from sir_jax.data.media.augment.silence import find_pause, fit_silence, insert_silence
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.media.augment.timeline import Timeline
from sir_jax.data.media.augment.tract import change_tract
from sir_jax.data.media.augment.voice import change_pitch, change_speed, change_tempo

_Streams = list[np.random.Generator]


def augment_wave(
    wave: np.ndarray,
    spec: AugmentSpec,
    rng: np.random.Generator,
    room: int | None = None,
    silence: np.ndarray | None = None,
) -> np.ndarray:
    """Apply each effect with its probability; see `augment_with_times`.

    Returns:
      float32; the length differs from N if speed, tempo or silence changed it. `wave` itself if no
      effect applied.

    Raises:
      UserError: a file of `reverb_folder` or `noise_folder` cannot be decoded.
    """
    return augment_with_times(wave, spec, rng, room, silence)[0]


def augment_with_times(
    wave: np.ndarray,
    spec: AugmentSpec,
    rng: np.random.Generator,
    room: int | None = None,
    silence: np.ndarray | None = None,
) -> tuple[np.ndarray, Timeline]:
    """Apply each effect with its probability, and tell how time maps.

    The order is that of sound: a voice (speed, pitch, tempo, tract) that pauses (silence) in a room
    (reverb) with noise, and what it goes through (clipping, telephone, codec, mask, gain).

    Args:
      wave: float32 [N] at 16 kHz.
      spec: probabilities and ranges of the effects.
      rng: random generator; it spawns others, and its own state does not advance.
      room: samples that there is room for. A clip is slowed and given silence only as far as it
        fits; one that was longer before is not shortened. None for any number.
      silence: seconds before, within and after, drawn before by `AugmentSpec.draw_silence`; None to
        draw them here.

    Returns:
      The waveform, float32, `wave` itself if no effect applied; and the map of its time to that of
      `wave`.

    Raises:
      UserError: a file of `reverb_folder` or `noise_folder` cannot be decoded.
    """
    times = Timeline.unchanged(len(wave))
    if not spec.active or not wave.size:
        return wave, times
    # A sixth effect must not change the streams of the first five: later ones are spawned later.
    speed, reverb, noise, telephone, gain = rng.spawn(5)
    pitch, tempo, tract, quiet, clipping, codec, mask = rng.spawn(7)
    wave = _change_voice(wave, spec, [speed, pitch, tempo, tract], room)
    times = times.resized(len(wave))
    spoken = len(wave)
    if spec.silence:
        drawn = spec.draw_silence(1, quiet)[0] if silence is None else silence
        samples = fit_silence(drawn, None if room is None else room - spoken)
        wave, times = _add_silence(wave, times, spec, samples, quiet)
    wave = _enter_room(wave, spec, reverb)
    # The ratio is that of the words: silence beside them makes the noise no louder.
    rarer = 10 * math.log10(len(wave) / spoken)
    wave = _mix_noise(wave, spec, noise, rarer)
    return _transmit(wave, spec, [clipping, telephone, codec, mask, gain]), times


def _change_voice(
    wave: np.ndarray, spec: AugmentSpec, streams: _Streams, room: int | None
) -> np.ndarray:
    speed, pitch, tempo, tract = streams
    if speed.random() < spec.speed:
        wave = change_speed(wave, _fitting(speed.uniform(*spec.factor), len(wave), room))
    if pitch.random() < spec.pitch:
        wave = change_pitch(wave, pitch.uniform(*spec.semitones))
    if tempo.random() < spec.tempo:
        wave = change_tempo(wave, _fitting(tempo.uniform(*spec.tempo_factor), len(wave), room))
    if tract.random() < spec.tract:
        wave = change_tract(wave, tract.uniform(*spec.tract_factor))
    return wave


def _fitting(factor: float, samples: int, room: int | None) -> float:
    """Raise a factor below 1 as far as the slower clip needs to fit."""
    return factor if room is None or factor >= 1 else max(factor, min(1.0, samples / room))


def _add_silence(
    wave: np.ndarray,
    times: Timeline,
    spec: AugmentSpec,
    samples: np.ndarray,
    stream: np.random.Generator,
) -> tuple[np.ndarray, Timeline]:
    if not samples.any():
        return wave, times
    amplitude = 0.0
    digital, level = stream.random() < spec.digital, stream.uniform(*spec.floor_db)
    if not digital:
        amplitude = math.sqrt(energy(wave) / len(wave)) * 10 ** (level / 20)
    before, within, after = map(int, samples)
    pause = find_pause(wave, stream) if within else 0
    # From the end on, so that the places of those before stay.
    for at, length in ((len(wave), after), (pause, within), (0, before)):
        wave = insert_silence(wave, at, length, amplitude, stream)
        times = times.with_silence(at, length)
    return wave, times


def _enter_room(wave: np.ndarray, spec: AugmentSpec, stream: np.random.Generator) -> np.ndarray:
    if stream.random() >= spec.reverb:
        return wave
    if spec.reverb_folder is not None:
        response = spec.reverb_folder[int(stream.integers(len(spec.reverb_folder)))]
        return add_reverb(wave, response, int(np.abs(response).argmax()))
    t60, ratio = stream.uniform(*spec.t60), stream.uniform(*spec.direct_ratio)
    return add_reverb(wave, make_response(t60, ratio, stream), 0)


def _mix_noise(
    wave: np.ndarray, spec: AugmentSpec, stream: np.random.Generator, rarer: float
) -> np.ndarray:
    if stream.random() >= spec.noise:
        return wave
    snr = stream.uniform(*spec.snr)
    if spec.noise_folder is not None:
        sound = spec.noise_folder[int(stream.integers(len(spec.noise_folder)))]
        sound = fit_length(sound, len(wave), stream)
    else:
        kind = spec.noise_kinds[int(stream.integers(len(spec.noise_kinds)))]
        sound = NOISES[kind](len(wave), stream)
    return add_noise(wave, sound, snr - rarer)


def _transmit(wave: np.ndarray, spec: AugmentSpec, streams: _Streams) -> np.ndarray:
    clipping, telephone, codec, mask, gain = streams
    if clipping.random() < spec.clipping:
        wave = clip_peaks(wave, clipping.uniform(*spec.clipping_db))
    if telephone.random() < spec.telephone:
        wave = narrow_band(wave, spec.mu_law)
    if codec.random() < spec.codec:
        kind = spec.codec_kinds[int(codec.integers(len(spec.codec_kinds)))]
        wave = CODECS[kind](wave, codec.uniform(*spec.kbps))
    if mask.random() < spec.mask:
        if stretches := draw_stretches(len(wave), spec.stretches, spec.seconds, mask):
            wave = mask_time(wave, stretches)
        if bands := draw_bands(spec.bands, spec.hertz, mask):
            wave = mask_bands(wave, bands)
    if gain.random() < spec.gain:
        wave = change_gain(wave, gain.uniform(*spec.gain_db))
    return wave
