"""What a file holds is told by its first bytes, whatever its name."""

import io
import struct

import pytest
from PIL import Image
from sounds import encode, hum, id3, page, without_info

from sir_jax.data.media.sniff import Content, content_of, kind_of_content, sniff


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def mp4(brand: bytes, track: bytes) -> bytes:
    """Return an mp4 file whose table of tracks stands behind its sound."""
    table = box(b"moov", box(b"trak", box(b"mdia", box(b"hdlr", bytes(8) + track + bytes(13)))))
    return box(b"ftyp", brand + bytes(4) + b"isom") + box(b"mdat", bytes(20_000)) + table


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind)
    return out.getvalue()


SOUNDS = {
    "wav": encode(hum(800), "WAV"),
    "flac": encode(hum(800), "FLAC"),
    "ogg": encode(hum(800), "OGG", "VORBIS"),
    "opus": encode(hum(800), "OGG", "OPUS"),
    "mp3": encode(hum(4000), "MP3"),
    "aiff": encode(hum(800), "AIFF"),
    "au": encode(hum(800), "AU"),
    "caf": encode(hum(800), "CAF"),
    "w64": encode(hum(800), "W64"),
    "m4a": mp4(b"M4A ", b"soun"),
    "mp4": mp4(b"isom", b"soun"),
    "amr": b"#!AMR\n" + bytes(32),
    "aac": b"\xff\xf1\x60\x40\x44\x1f\xfc" + bytes(600),
    "webm": b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm" + bytes(40) + b"A_OPUS",
    "speex": page([b"Speex   1.2" + bytes(69)], flags=2),
    "ogg flac": page([b"\x7fFLAC\x01\0\0\1fLaC"], flags=2),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds(tmp_path, name):
    path = tmp_path / "x.jpg"
    for content in (SOUNDS[name], id3(SOUNDS[name], 50), id3(id3(SOUNDS[name], 70_000))):
        path.write_bytes(content)
        assert sniff(path) == Content("speech", name)
    assert kind_of_content(SOUNDS[name][:8192]) == "speech"


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_pictures(tmp_path, name):
    (tmp_path / "x.wav").write_bytes(picture(name.upper()))
    assert sniff(tmp_path / "x.wav") == Content("image", name)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (mp4(b"isom", b"vide"), "video"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm" + bytes(40) + b"V_VP9", "video"),
        (b"RIFF\x10\0\0\0AVI LIST", "video"),
        (page([b"\x80theora" + bytes(35)], flags=2), "video"),
        (b"%PDF-1.7", "pdf"),
        ("dear diary".encode("utf-16"), ""),
        (b"BMW drives past", ""),
        (b"a,b\n1,2\n" * 2000, ""),
        (b"", ""),
    ],
)
def test_anything_else_is_neither(tmp_path, content, name):
    (tmp_path / "x.wav").write_bytes(content)
    assert sniff(tmp_path / "x.wav") == Content(None, name)


def test_mp3_behind_other_bytes():
    bare = without_info(SOUNDS["mp3"])
    assert content_of(bytes(700) + bare).format == "mp3"
    assert content_of(bare[100:]).format == "mp3"  # cut out of a stream
