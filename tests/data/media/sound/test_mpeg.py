"""MP3 files are read to the end of their frames, whatever their header says or does not."""

import struct

import numpy as np
import pytest
from sounds import encode, hum, id3, without_info

from sir_jax.data.media.audio import load_audio, read_header
from sir_jax.errors import BadMedia

FRAME = 576  # samples at 16 kHz
# LAME puts 1105 samples before the sound, of which 529 are the decoder's.
DELAY = 1105


@pytest.fixture(scope="module")
def mp3() -> bytes:
    return encode(hum(40_000), "MP3")


def test_variable_bitrate_without_a_header():
    # Loud first: the frames at the start are larger, and an estimate by them is too short.
    wave = np.concatenate([hum(16_000), np.zeros((32_000, 1), np.float32)])
    whole = encode(wave, "MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    bare = without_info(whole)
    frames = -(-(len(wave) + DELAY) // FRAME)
    read = load_audio(bare)
    assert len(read) == frames * FRAME == read_header(bare).samples
    np.testing.assert_allclose(read[DELAY : DELAY + len(wave)], load_audio(whole), atol=1e-6)


def test_constant_bitrate_without_a_header(mp3):
    read = load_audio(without_info(mp3))
    assert len(read) % FRAME == 0
    np.testing.assert_allclose(read[DELAY : DELAY + 40_000], load_audio(mp3), atol=1e-6)
    assert len(load_audio(bytes(300) + without_info(mp3) + b"TAG" + bytes(125))) == len(read)


def test_files_that_were_joined(mp3):
    one = len(load_audio(without_info(mp3)))
    assert len(load_audio(mp3 + mp3)) == 2 * one - DELAY
    assert len(load_audio(mp3 + id3(mp3) + mp3)) == 3 * one - DELAY
    assert len(load_audio(without_info(mp3) * 2)) == 2 * one
    other = encode(hum(44_100, 2), "MP3", rate=44_100)
    joined = load_audio(mp3 + other)
    np.testing.assert_array_equal(joined, np.concatenate([load_audio(mp3), load_audio(other)]))


def test_a_header_that_states_too_few_frames(mp3):
    at = mp3.index(b"Xing") + 8
    assert len(mp3) > at + 4
    few = mp3[:at] + struct.pack(">I", 10) + mp3[at + 4 :]
    whole = load_audio(mp3)
    read = load_audio(few)
    assert len(read) >= len(whole)
    np.testing.assert_allclose(read[: len(whole)], whole, atol=1e-6)


def test_a_header_that_counts_itself(mp3):
    at = mp3.index(b"Xing") + 8
    count = struct.unpack_from(">I", mp3, at)[0]
    counted = mp3[:at] + struct.pack(">I", count + 1) + mp3[at + 4 :]
    np.testing.assert_array_equal(load_audio(counted), load_audio(mp3))
    missing = mp3[:at] + struct.pack(">I", count + 2) + mp3[at + 4 :]
    with pytest.raises(BadMedia, match="truncated: its header announces"):
        load_audio(missing)


def test_a_tag_in_front_and_behind_changes_nothing(mp3):
    tagged = id3(id3(mp3, 5000)) + b"TAG" + bytes(125)
    np.testing.assert_array_equal(load_audio(tagged), load_audio(mp3))


def test_a_cut_file_is_truncated(mp3):
    for whole in (mp3, without_info(mp3)):
        for keep in (0.3, 0.77):
            with pytest.raises(BadMedia, match="truncated") as caught:
                load_audio(whole[: int(len(whole) * keep) // 144 * 144 + 100])
            assert caught.value.fault == "truncated"


def test_bytes_that_are_no_frames_are_refused():
    noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    with pytest.raises(BadMedia):
        load_audio(id3(noise))
