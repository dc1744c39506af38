"""Ogg files are read to their end, all links and whatever else is mixed in, or refused by name."""

import numpy as np
import pytest
from sounds import encode, flac_in_ogg, hum, page, pages_of, sealed

from sir_jax.data.media.audio import load_audio, read_header
from sir_jax.errors import BadMedia

SAMPLES = 40_000


@pytest.fixture(scope="module", params=["VORBIS", "OPUS"])
def ogg(request) -> bytes:
    return encode(hum(SAMPLES), "OGG", request.param)


def test_every_link_of_a_chain_is_read(ogg):
    other = encode(hum(30_000, 2, seed=1), "OGG", "VORBIS", rate=44_100)
    one, two = load_audio(ogg), load_audio(other)
    np.testing.assert_array_equal(load_audio(ogg + ogg), np.concatenate([one, one]))
    np.testing.assert_array_equal(load_audio(ogg + other + ogg), np.concatenate([one, two, one]))
    assert read_header(ogg + ogg).samples == 2 * read_header(ogg).samples


def test_a_changed_byte_is_found_in_any_page(ogg):
    for at in np.linspace(30, len(ogg) - 1, 12).astype(int):
        spoilt = bytearray(ogg)
        spoilt[at] ^= 4
        with pytest.raises(BadMedia, match=r"x: (damaged|truncated)") as caught:
            load_audio(bytes(spoilt), "x")
        assert "copy or record it again" in str(caught.value)


def test_a_lost_page_is_found(ogg):
    pages = pages_of(ogg)
    for lost in range(1, len(pages) - 1):
        with pytest.raises(BadMedia, match="pages are missing"):
            load_audio(b"".join(pages[:lost] + pages[lost + 1 :]))
        spoilt = bytearray(ogg)
        spoilt[sum(map(len, pages[:lost]))] ^= 1  # the mark of the page
        with pytest.raises(BadMedia, match="pages are missing"):
            load_audio(bytes(spoilt))
    with pytest.raises(BadMedia, match="start of an Ogg stream is missing"):
        load_audio(b"".join(pages[1:]))
    spoilt = bytearray(ogg)
    spoilt[len(ogg) - len(pages[-1])] ^= 1
    with pytest.raises(BadMedia, match="are no Ogg page"):
        load_audio(bytes(spoilt))


def test_other_streams_are_passed_over(ogg):
    pages, serial = pages_of(ogg), 0x1234
    skeleton = page([b"fishead\0" + bytes(56)], flags=2, serial=serial)
    bones = page([b"fisbone\0" + bytes(44)], serial=serial, number=1)
    end = page([b""], flags=4, serial=serial, number=2)
    mixed = [skeleton, pages[0], bones, *pages[1:2], end, *pages[2:]]
    np.testing.assert_array_equal(load_audio(b"".join(mixed)), load_audio(ogg))


def test_flac_in_ogg():
    wave = (hum(SAMPLES) * 32_767).astype(np.int16)
    flac = encode(wave, "FLAC")
    wrapped = flac_in_ogg(flac, SAMPLES)
    np.testing.assert_array_equal(load_audio(wrapped), load_audio(flac))
    assert read_header(wrapped).samples == SAMPLES
    with pytest.raises(BadMedia, match="pages are missing"):
        load_audio(b"".join(pages_of(wrapped)[:4] + pages_of(wrapped)[5:]))


@pytest.mark.parametrize("stated", [0, -1, 20_000])
def test_the_last_position_is_no_verdict(stated):
    whole = encode(hum(SAMPLES), "OGG", "VORBIS")
    pages = pages_of(whole)
    changed = b"".join([*pages[:-1], sealed(pages[-1], position=stated)])
    wave = load_audio(changed)
    assert SAMPLES <= len(wave) < SAMPLES + 2048  # to the end of the last block
    np.testing.assert_array_equal(wave[:SAMPLES], load_audio(whole))


def test_a_stream_that_was_joined_while_it_ran(ogg):
    pages = pages_of(ogg)
    late = [sealed(p, number=n if n < 2 else n + 500) for n, p in enumerate(pages)]
    assert abs(len(load_audio(b"".join(late))) - SAMPLES) < 2048


def test_opus_without_the_mark_of_its_end():
    whole = encode(hum(SAMPLES), "OGG", "OPUS")
    pages = pages_of(whole)
    open_end = b"".join([*pages[:-1], sealed(pages[-1], flags=0)])
    np.testing.assert_array_equal(load_audio(open_end), load_audio(whole))


def test_zeros_behind_the_end_do_not_matter(ogg):
    np.testing.assert_array_equal(load_audio(ogg + bytes(500)), load_audio(ogg))


def test_a_stream_without_sound_is_not_supported():
    video = page([b"\x80theora" + bytes(35)], flags=2) + page([b"x"], flags=4, number=1)
    with pytest.raises(BadMedia, match="not supported; convert it") as caught:
        load_audio(video)
    assert caught.value.fault == "not supported"
