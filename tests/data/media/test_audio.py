"""Loading of sound: parity with librosa and transformers, and all ways for a file to be bad."""

import io
import struct
import wave as wave_module

import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from sir_jax.config.fields import TRIMS
from sir_jax.data.media.audio import (
    SAMPLE_RATE,
    load_audio,
    load_sound,
    normalize_waveform,
    spoken_part,
    trimmed_part,
)
from sir_jax.data.media.sound import decode
from sir_jax.errors import BadMedia, UserError


def voice(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return a hum with noise, float32 [samples, channels] within (-1, 1)."""
    rng = np.random.default_rng(seed)
    hum = np.sin(np.arange(samples)[:, None] * 0.05) * 0.3
    return (hum + 0.05 * rng.standard_normal((samples, channels))).astype(np.float32)


def encode(
    sound: np.ndarray, rate: int, container: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def refusal(source, **kwargs) -> str:
    """Return the error message for a source; it must have one line."""
    with pytest.raises(UserError) as caught:
        load_audio(source, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize(
    ("container", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 44_100, 2),
        ("WAV", "PCM_24", 48_000, 1),
        ("WAV", "FLOAT", 22_050, 3),
        ("WAV", "ULAW", 8_000, 1),
        ("WAVEX", "PCM_16", 44_100, 2),
        ("RF64", "PCM_16", 16_000, 2),
        ("FLAC", "PCM_16", 44_100, 2),
        ("FLAC", "PCM_16", 16_000, 1),
        ("OGG", "VORBIS", 44_100, 2),
        ("OGG", "OPUS", 48_000, 1),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ],
)
def test_equals_librosa_bit_for_bit(tmp_path, container, subtype, rate, channels):
    path = tmp_path / f"clip.{container.lower()}"
    path.write_bytes(encode(voice(int(0.73 * rate), channels), rate, container, subtype))
    expected, _ = librosa.load(path, sr=SAMPLE_RATE)
    actual = load_audio(path)
    assert actual.dtype == np.float32 and actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(load_audio(path.read_bytes()), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)


@pytest.mark.parametrize("samples", [1, 2, 3, 399, 400, 401, 16_000])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_length_is_that_of_librosa(samples, rate):
    sound = (voice(samples, 2) * 32_767).astype(np.int16)
    actual = load_audio((sound, rate))
    assert actual.shape == (int(np.ceil(samples * SAMPLE_RATE / rate)),)
    expected, _ = librosa.load(io.BytesIO(encode(sound, rate)), sr=SAMPLE_RATE)
    np.testing.assert_array_equal(actual, expected)


def test_arrays_of_every_type_agree():
    exact = np.array([-1.0, -0.5, 0.0, 0.25, 0.75], np.float32)
    for array in (
        (exact * 32_768).astype(np.int16),
        (exact.astype(np.float64) * 2**31).astype(np.int32),
        (exact * 128 + 128).astype(np.uint8),
        exact.astype(np.float64),
        exact.astype(np.float16),
        np.stack([exact, exact], axis=1),
        (exact * 32_768).astype(">i2"),
        (exact.astype(np.float64) * 2**31).astype(">i4"),
        exact.astype(">f8"),
        jnp.asarray(exact),
        jnp.asarray(exact, jnp.bfloat16),
        jnp.asarray(exact * 32_768, jnp.int16),
    ):
        np.testing.assert_array_equal(load_audio((array, SAMPLE_RATE)), exact)


def test_bad_arrays_are_refused():
    clip = voice(4_000)[:, 0]
    assert "transpose" in refusal((np.stack([clip, clip]), 16_000))
    assert "(2, 3, 4)" in refusal((np.zeros((2, 3, 4), np.float32), 16_000))
    assert "int64" in refusal((clip.astype(np.int64), 16_000))
    assert "5 Hz" in refusal((clip, 5))
    assert "pair" in refusal((16_000, clip))
    assert "pair" in refusal((clip, clip))
    assert len(load_audio((clip, np.int64(16_000)))) == len(load_audio((clip, jnp.array(16_000))))
    assert "undefined" in refusal((np.array([0.0, np.nan]), 16_000))


def test_clip_without_samples_is_empty():
    assert load_audio(encode(np.zeros((0, 2), np.int16), 44_100)).shape == (0,)
    assert load_audio((np.zeros(0, np.int16), 44_100)).shape == (0,)
    assert load_audio((np.zeros((0, 2), np.float32), 44_100)).shape == (0,)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "ULAW")],
)
def test_truncated_wav_is_refused(tmp_path, container, subtype):
    whole = encode(voice(8_000), 16_000, container, subtype)
    width = {"PCM_16": 2, "FLOAT": 4, "PCM_24": 3, "ULAW": 1}[subtype]
    header = whole.index(b"data") + 8
    for keep in (len(whole) - 1, len(whole) - width, len(whole) // 2, header, header - 5, 20):
        path = tmp_path / "cut.wav"
        path.write_bytes(whole[:keep])
        message = refusal(path)
        assert message.startswith(f"{path}: truncated")
        if keep >= header:
            assert str(keep - header) in message
    assert len(load_audio(whole)) == 8_000


@pytest.mark.parametrize("container", ["FLAC", "OGG", "MP3"])
def test_truncated_compressed_file_is_refused(container):
    whole = encode(voice(40_000), 16_000, container)
    for share in (0.3, 0.6, 0.95):
        message = refusal(whole[: int(len(whole) * share)], name="cut")
        assert message.startswith("cut: ") and "truncated" in message


def test_wav_from_a_pipe_states_no_size_and_is_read():
    whole = encode(voice(8_000), 16_000)
    at = whole.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFF000):
        streamed = whole[:at] + struct.pack("<I", size) + whole[at + 4 :]
        np.testing.assert_array_equal(load_audio(streamed), load_audio(whole))


def test_chunks_before_and_after_the_samples_are_ignored():
    buffer = io.BytesIO()
    with wave_module.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((voice(801)[:, 0] * 32_767).astype("<i2").tobytes())
    plain = buffer.getvalue()
    at = plain.index(b"data")
    note = b"LIST" + struct.pack("<I", 5) + b"abcde\0"  # a chunk of odd size is padded
    dressed = plain[:at] + note + plain[at:] + note
    np.testing.assert_array_equal(load_audio(dressed), load_audio(plain))


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.wav"
    text.write_text("dear diary\n" * 50)
    assert refusal(text).startswith(f"{text}: not a wav, flac, ogg or mp3")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "WEBP")  # a RIFF file too
    assert "a webp file, not a sound" in refusal(picture.getvalue())
    assert "no such file" in refusal(tmp_path / "absent.wav")
    assert "is a URL; download it" in refusal("https://a.org/b.wav")
    assert "folder" in refusal(tmp_path)
    assert "empty" in refusal(b"", name="void")
    assert "'rb'" in refusal(io.StringIO("text"))
    assert "float" in refusal(3.5)
    for start in (b"fLaC", b"ID3\3", b"\xff\xfb\x90\x00", b"OggS"):
        assert refusal(start + bytes(40), name="junk").startswith("junk: ")


def test_codecs_with_vulnerable_decoders_are_refused():
    for subtype in ("IMA_ADPCM", "MS_ADPCM"):
        assert "codec" in refusal(encode(voice(4_000), 16_000, subtype=subtype))
    assert "au is not supported; convert" in refusal(encode(voice(4_000), 16_000, "AU"))


def test_header_cannot_ask_for_unbounded_memory():
    flac = bytearray(encode(voice(4_000), 16_000, "FLAC"))
    # STREAMINFO has from byte 18 on 20 bits of rate, 8 of layout and 36 of length.
    word = int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1)
    flac[18:26] = (word | (1 << 36) - 1).to_bytes(8, "big")
    assert "over the bound" in refusal(bytes(flac))


def test_flac_is_read_to_its_end():
    whole = encode(voice(4_000), 16_000, "FLAC")
    word = int.from_bytes(whole[18:26], "big")
    # 0: the encoder wrote into a pipe.
    for stated in (word & ~((1 << 36) - 1), word - 3_000):
        flac = whole[:18] + stated.to_bytes(8, "big") + whole[26:]
        np.testing.assert_array_equal(load_audio(flac), load_audio(whole))
        assert "truncated" in refusal(flac[:-50])
    assert "truncated" in refusal(whole[:18] + (word + 1).to_bytes(8, "big") + whole[26:])
    np.testing.assert_array_equal(load_audio(whole + b"TAG" + bytes(125)), load_audio(whole))
    other = encode(voice(9_000, 2, seed=1), 44_100, "FLAC")
    joined = np.concatenate([load_audio(clip) for clip in (whole, other, whole)])
    np.testing.assert_array_equal(load_audio(whole + other + whole), joined)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_pieces_give_the_same_samples(monkeypatch, container, rate):
    sound = encode(voice(rate, 2), rate, container)
    whole = load_audio(sound)
    monkeypatch.setattr(decode, "BLOCK_VALUES", 7_001)
    np.testing.assert_array_equal(load_audio(sound), whole)
    if container == "FLAC":  # what follows the end is found in the last piece
        np.testing.assert_array_equal(load_audio(sound + bytes(99)), whole)


def test_what_cannot_be_heard_is_said():
    speech = voice(8_000)
    for rate in (16_000, 44_100):
        for silence in (np.zeros((8_000, 2)), np.full((8_000, 1), 0.25), speech[:1]):
            wave, warning = load_sound(encode(silence, rate, subtype="FLOAT"))
            assert warning == "digital silence" and len(wave)
        against = np.concatenate([speech, -speech], axis=1)
        assert load_sound(encode(against, rate)).warning == "its channels cancel each other"
        nearly = np.concatenate([speech, -0.95 * speech], axis=1)
        assert load_sound((nearly, rate)).warning == "its channels cancel each other"
        beside = np.concatenate([speech, 0 * speech, 0.5 * speech, 0 * speech], axis=1)
        for heard in (speech, beside, speech * 1e-3, np.repeat(speech, 2, axis=1)):
            assert load_sound((heard, rate)).warning == ""
    assert load_sound(encode(np.zeros((0, 2)), 16_000)) == (pytest.approx([]), "")


def test_samples_beyond_all_bounds_are_refused():
    for level in (1e30, 3e38, -4e10):
        for rate in (16_000, 22_050):
            loud = encode(voice(4_000) * np.float32(level), rate, subtype="FLOAT")
            assert "over the bound of 2.15e+09 (full scale is 1)" in refusal(loud)
    assert "infinite" in refusal((voice(4_000).astype(np.float64) * 1e300, 16_000))
    assert "infinite" in refusal((np.float32([[3e38, 3e38]]), 16_000))
    # Whole numbers that were stored as floats are sound.
    scaled = load_audio(encode(voice(4_000) * 32_768, 16_000, subtype="FLOAT"))
    np.testing.assert_allclose(
        normalize_waveform(scaled), normalize_waveform(voice(4_000)[:, 0]), atol=1e-3
    )


@pytest.mark.parametrize("samples", [1, 2, 399, 400, 16_000, 40_001])
def test_normalisation_equals_transformers_bit_for_bit(samples):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    for scale, shift in ((1.0, 0.0), (1e-5, 0.3), (0.0, 0.5)):
        wave = voice(samples)[:, 0] * np.float32(scale) + np.float32(shift)
        expected = extractor(wave, sampling_rate=16_000, return_tensors="np").input_values[0]
        actual = normalize_waveform(wave)
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected)


def test_normalisation_against_float64():
    wave = voice(20_000)[:, 0]
    exact = wave.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
    np.testing.assert_allclose(normalize_waveform(wave), exact, atol=2e-6)
    assert normalize_waveform(np.zeros(0)).shape == (0,)
    np.testing.assert_array_equal(normalize_waveform(np.zeros(7)), np.zeros(7))


@pytest.mark.parametrize(
    ("container", "rate", "channels"),
    [("WAV", 16_000, 2), ("FLAC", 44_100, 2), ("OGG", 16_000, 2), ("MP3", 44_100, 2)],
)
def test_limits_are_held_before_any_sample_is_decoded(container, rate, channels):
    whole = encode(voice(2 * rate, channels), rate, container)
    np.testing.assert_array_equal(
        load_audio(whole, max_seconds=2.1, max_channels=2), load_audio(whole)
    )
    assert "2 channels are over the limit of 1" in refusal(whole, max_channels=1)
    with pytest.raises(BadMedia, match=r"clip: 2.\d\d s is over the limit of 1.5 s; cut") as caught:
        load_audio(whole, "clip", max_seconds=1.5)
    assert caught.value.fault == "too long"
    # Damage in the samples is not noticed.
    if container == "FLAC":
        spoilt = whole[:8_000] + b"\0" * (len(whole) - 8_000)
        assert "damaged" in refusal(spoilt)
        assert "over the limit of 1.5 s" in refusal(spoilt, max_seconds=1.5)
    if container == "WAV":
        undefined = encode(np.full((2 * rate, channels), np.nan), rate, container, "FLOAT")
        assert "undefined" in refusal(undefined)
        assert "over the limit of 1.5 s" in refusal(undefined, max_seconds=1.5)


def test_limits_of_arrays():
    sound = np.zeros((8_000, 2), np.float32)
    assert "0.50 s is over the limit of 0.4 s" in refusal((sound, 16_000), max_seconds=0.4)
    assert "2 channels" in refusal((sound, 16_000), max_channels=1)
    assert len(load_audio((sound, 16_000), max_seconds=0.5, max_channels=2)) == 8_000


@pytest.mark.parametrize(
    ("before", "tone", "after", "floor_db", "faint", "speech"),
    [
        # 3 frames of 320 are left at either end, or one.
        (3_200, 6_400, 3_200, -60, (2_240, 10_560), (2_880, 9_920)),
        (3_200, 6_400, 3_200, -30, (0, 12_800), (2_880, 9_920)),
        (3_200, 6_400, 3_200, -14, (0, 12_800), (0, 12_800)),
        (500, 6_400, 0, -60, (0, 6_900), (0, 6_900)),
        (0, 100, 0, -60, (0, 100), (0, 100)),  # shorter than a frame
    ],
)
def test_quiet_ends_stop_where_something_is_heard(before, tone, after, floor_db, faint, speech):
    floor = 10 ** (floor_db / 20)
    wave = np.concatenate([np.full(before, floor), np.ones(tone), np.full(after, floor)])
    assert trimmed_part(0.1 * wave, "faint") == faint
    assert trimmed_part(0.1 * wave, "speech") == speech
    assert trimmed_part(wave, "none") == (0, len(wave))
    for trim in TRIMS:
        assert trimmed_part(np.zeros(len(wave)), trim) == (0, len(wave))


def test_a_click_is_no_speech_and_one_loud_word_hides_no_other():
    quiet, soft, loud = np.zeros(3_200), np.full(6_400, 0.02), np.full(640, 0.5)
    click = np.zeros(3_200)
    click[1_000:1_100] = 1.0
    assert spoken_part(np.concatenate([click, soft, quiet])) == (2_880, 9_920)
    # The loud 40 ms are 28 dB above the rest, and less than a tenth of it.
    assert spoken_part(np.concatenate([quiet, soft, loud, soft, quiet])) == (2_880, 16_960)
