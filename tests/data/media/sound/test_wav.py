"""WAV: sizes that are placeholders, sizes that tell of a cut, codecs, and odd headers."""

import struct

import numpy as np
import pytest
from sounds import encode, hum, id3

from sir_jax.data.media.audio import load_audio, read_header
from sir_jax.errors import BadMedia

SAMPLES = 8_000
WAV = encode(hum(SAMPLES), "WAV", "PCM_16")
DATA = WAV.index(b"data") + 4


def sized(data: int, riff: int | None = None, wav: bytes = WAV) -> bytes:
    """Return the file with another size of its samples, and of the whole."""
    out = bytearray(wav)
    struct.pack_into("<I", out, wav.index(b"data") + 4, data)
    if riff is not None:
        struct.pack_into("<I", out, 4, riff)
    return bytes(out)


@pytest.mark.parametrize(
    ("data", "riff"),
    [
        (0, None),
        (0, 0),
        (0, 36),
        (0, 0xFFFFFFFF),
        (0x7FFFFFFF, 0x7FFFFFFF),
        (0x7FFFFFFF - 36, 0x7FFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, None),
        (0x7FFFF000, 0x7FFFF024),
        (0x80000000, 0x80000024),
        (2_000_000_000, 2_000_000_036),
        (200_000_000, 200_000_036),
        (172_800_000, 0),
        (50_000, None),  # the file's own size is right
        (50_000, 0xFFFFFFFF),
    ],
)
def test_a_placeholder_means_to_the_end_of_the_file(data, riff):
    wav = sized(data, riff)
    np.testing.assert_array_equal(load_audio(wav), load_audio(WAV))
    assert read_header(wav).samples == SAMPLES
    # Of a last sample that is not whole, nothing is read.
    assert len(load_audio(wav + b"\1")) == SAMPLES


@pytest.mark.parametrize(("subtype", "rate"), [("FLOAT", 16_000), ("PCM_24", 44_100)])
def test_placeholders_of_other_forms(subtype, rate):
    for form in ("WAV", "WAVEX"):
        wav = encode(hum(SAMPLES, 2), form, subtype, rate)
        np.testing.assert_array_equal(load_audio(sized(0xFFFFFFFF, 0, wav)), load_audio(wav))


def test_a_long_file_from_a_pipe():
    wav = bytearray(encode(hum(SAMPLES), "RF64", "PCM_16"))
    whole = load_audio(bytes(wav))
    at = wav.index(b"ds64") + 8
    struct.pack_into("<QQ", wav, at, 0, 0)
    np.testing.assert_array_equal(load_audio(bytes(wav)), whole)
    struct.pack_into("<QQ", wav, at, (1 << 64) - 1, (1 << 64) - 1)
    np.testing.assert_array_equal(load_audio(bytes(wav)), whole)


@pytest.mark.parametrize("more", [1, 2, 100, 16_000, 3_000_000])
def test_a_plausible_size_beyond_the_end_means_a_cut(more):
    size = 2 * SAMPLES + more
    with pytest.raises(BadMedia, match=f"truncated: its header announces {size} bytes") as caught:
        load_audio(sized(size, size + 36))
    assert caught.value.fault == "truncated"


def test_no_samples_and_other_chunks():
    note = b"LIST" + struct.pack("<I", 4) + b"abcd"
    assert load_audio(sized(0, 36)[: DATA + 4]).shape == (0,)
    assert load_audio(sized(0, 36 + len(note))[: DATA + 4] + note).shape == (0,)


def test_a_chunk_of_odd_size_without_its_last_byte():
    at = DATA - 4
    note = b"LIST" + struct.pack("<I", 5) + b"abcde"
    np.testing.assert_array_equal(load_audio(WAV[:at] + note + WAV[at:]), load_audio(WAV))


def test_adpcm_is_not_supported_whatever_stands_before_it():
    for subtype in ("IMA_ADPCM", "MS_ADPCM"):
        wav = encode(hum(SAMPLES), "WAV", subtype)
        ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 0, 0xA0000000) + bytes(40)
        for file in (wav, id3(wav, 10), id3(id3(wav)), ape + wav):
            with pytest.raises(BadMedia, match="wav codec .* is not supported") as caught:
                load_audio(file)
            assert caught.value.fault == "not supported" and "ffmpeg" in str(caught.value)
    np.testing.assert_array_equal(load_audio(id3(WAV)), load_audio(WAV))


def test_a_second_format_does_not_get_past_the_guard():
    wav = encode(hum(SAMPLES), "WAV", "IMA_ADPCM")
    form = wav[12 : 20 + struct.unpack_from("<I", wav, 16)[0]]
    plain = WAV[12:36]
    for first, second in ((plain, form), (form, plain)):
        both = wav[:12] + first + second + wav[12 + len(form) :]
        try:
            wave = load_audio(both)
        except BadMedia as error:
            assert error.fault in ("not supported", "undecodable")
        else:  # read as the PCM that the one format says
            assert second is plain and len(wave) > 0
