"""Two hundred hostile files: each is refused with one line, and the page keeps working."""

import io
import struct
import zlib

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.page.workers import Decoders

SOUNDS = {
    "wav": b"RIFF\x24\x10\x00\x00WAVEfmt ",
    "flac": b"fLaC\x00\x00\x00\x22",
    "ogg": b"OggS\x00\x02",
    "mp3": b"ID3\x04\x00\x00",
    "rf64.wav": b"RF64\xff\xff\xff\xffWAVEds64",
}
PICTURES = {
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "webp": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "gif": b"GIF89a",
    "bmp": b"BM\x00\x10\x00\x00",
}
NAMES = [
    "../../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/shadow",
    "a\0b.wav",
    'quo"te.wav',
    "a\r\nb: c",
    "%2e%2e%2f.wav",
    "x" * 900,
    "",
    ".",
    "CON",
    "${HOME}",
    "`id`",
    "<script>alert(1)</script>",
    "\u202egnp.wav",
    "ü/é.png",
    "|ls",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "a;b",
]


def encoded(suffix):
    """Return a valid file of a format."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    if suffix in PICTURES:
        name = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(file, name)
    else:
        wave, kind = rng.uniform(-0.5, 0.5, 16_000), {"rf64.wav": "RF64"}.get(suffix, suffix)
        soundfile.write(file, wave, 16_000, format=kind.upper())
    return file.getvalue()


def kind_of(suffix):
    return "picture" if suffix in PICTURES else "speech"


def chunk(name, body):
    check = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def png(width, height, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(megabytes):
    """Return compressed zeros, a thousand times smaller than the zeros."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def bombs():
    """Yield (part, name, contents) of small files that claim or decompress to huge contents."""
    bomb = zeros(64)
    for side in (5001, 30_000, 65_535, 2**31 - 1):
        yield "picture", f"{side}.png", png(side, side, chunk(b"IDAT", bomb))
    text = chunk(b"zTXt", b"a\0\0" + bomb)
    yield "picture", "text.png", png(64, 64, text, chunk(b"IDAT", zlib.compress(bytes(64))))
    international = chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)
    yield "picture", "words.png", png(64, 64, international, chunk(b"IDAT", zlib.compress(b"")))
    for side in (30_000, 65_535):
        screen = struct.pack("<HHBBB", side, side, 0, 0, 0)
        block = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x08\x02\x4c\x01\x00\x3b"
        yield "picture", f"{side}.gif", b"GIF89a" + screen + block
        head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        yield "picture", f"{side}.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    frame = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(100)
    body = b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame
    yield "picture", "wide.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    size = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 65_500, 65_500)
    components = b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    yield "picture", "wide.jpg", b"\xff\xd8" + size + components + b"\xff\xd9"

    hours = 5 * 3600
    for samples in (hours * 16_000, 2**36 - 1):
        info = struct.pack(">HH", 4096, 4096) + bytes(6)
        info += struct.pack(">Q", 16_000 << 44 | 15 << 36 | samples) + bytes(16)
        yield "speech", "5h.flac", b"fLaC\x80\x00\x00\x22" + info + b"\xff\xf8\xc9\x18" + bytes(50)
    ogg = bytearray(encoded("ogg"))
    last = bytes(ogg).rindex(b"OggS")
    ogg[last + 6 : last + 14] = struct.pack("<Q", hours * 16_000)
    ogg[last + 22 : last + 26] = bytes(4)
    ogg[last + 22 : last + 26] = struct.pack("<I", ogg_check(ogg[last:]))
    yield "speech", "5h.ogg", bytes(ogg)


def placeholders():
    """Yield (name, contents, seconds) of sounds whose header announces much more than they hold."""
    hours = 5 * 3600
    for rate, channels in ((16_000, 1), (22_050, 2), (8_000, 2)):
        size = hours * rate * channels * 2
        fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
        data = b"data" + struct.pack("<I", min(size, 0x7FFE0000)) + bytes(64_000)
        inside = b"WAVEfmt " + struct.pack("<I", 16) + fmt + data
        seconds = 64_000 / (rate * 2 * channels)
        yield "5h.wav", b"RIFF" + struct.pack("<I", len(inside)) + inside, seconds
    long_size = struct.pack("<QQQI", 2**40, 2**40, 2**39, 0)
    inside = b"WAVEds64" + struct.pack("<I", 28) + long_size
    inside += b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    sizes = b"\xff\xff\xff\xff"
    yield "5h.rf64", b"RF64" + sizes + inside + b"data" + sizes + bytes(98), 49 / 16_000


def ogg_check(page):
    """Return the checksum of an Ogg page, without which a decoder rejects it."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value >> 31 else 0)
    return value


def hostile():
    """Yield the (part, name, contents) of every file."""
    rng = np.random.default_rng(7)
    for suffix, magic in (SOUNDS | PICTURES).items():
        for length in (0, 1, 4, 40, 700, 3_001, 9_000, 60_000):
            start = magic if length % 2 == 0 else b""
            yield kind_of(suffix), f"random.{suffix}", start + rng.bytes(length) * (length > 0)
        # A picture as speech and speech as a picture.
        yield {"speech": "picture", "picture": "speech"}[kind_of(suffix)], suffix, encoded(suffix)
    for suffix in (SOUNDS | PICTURES).keys() - {"mp3"}:  # half an mp3 is an mp3
        whole = encoded(suffix)
        for share in (0.02, 0.1, 0.2, 0.3, 0.5, 0.6):
            yield kind_of(suffix), f"cut.{suffix}", whole[: int(len(whole) * share)]
    yield from bombs()
    for number, name in enumerate(NAMES):
        yield ("speech", "picture")[number % 2], name, rng.bytes(300)
    for suffix, magic in (SOUNDS | PICTURES).items():
        yield kind_of(suffix), suffix, magic * 500
        yield kind_of(suffix), suffix, encoded(suffix)[:16] + bytes(5_000)


def test_there_are_two_hundred():
    assert len([*hostile(), *placeholders()]) >= 200


@pytest.fixture(scope="module")
def client(page_engine, serve_page):
    decoders = Decoders(2)
    with (
        serve_page(page_engine, decoders, upload_bytes=20_000_000) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        yield client


def search(client, part, name, data):
    return client.post("/api/search", files={part: (name, data)}, data={"k": "9", "rerank": "1"})


def one_line(answer):
    """Return the status of a refusal, whose message must be one line."""
    message = answer.json()["error"]
    assert message and len(message) < 400 and message.isprintable(), message
    return answer.status_code


def ranking(client, query):
    results = search(client, "speech", "query.wav", query).json()["results"]
    return [(hit["id"], hit["score"], hit["match"]) for hit in results]


def test_every_file_is_refused_with_one_line_and_the_page_keeps_working(client, query):
    good = query.read_bytes()
    before = ranking(client, good)
    assert len(before) == 9
    statuses = {}
    for part, name, data in hostile():
        answer = search(client, part, name, data)
        assert 400 <= one_line(answer) < 500, (part, name, answer.text)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert statuses.keys() <= {400, 413, 415} and statuses[413] >= 10 and statuses[415] >= 100
    assert ranking(client, good) == before


def test_of_a_sound_that_announces_too_much_what_is_there_is_searched_with(client):
    for name, data, seconds in placeholders():
        answer = search(client, "speech", name, data).json()
        assert answer["seconds"] == pytest.approx(seconds, abs=1e-4) and answer["quiet"]


def test_damaged_files_are_refused_or_searched_with(client, query):
    """Change a few bytes of valid files; some of them can still be decoded."""
    good, rng = query.read_bytes(), np.random.default_rng(3)
    before = ranking(client, good)
    for suffix in SOUNDS | PICTURES:
        for _ in range(4):
            data = bytearray(encoded(suffix))
            for offset in rng.integers(4, min(len(data), 4_000), 12):
                data[offset] = rng.integers(256)
            answer = search(client, kind_of(suffix), f"damaged.{suffix}", bytes(data))
            assert answer.status_code == 200 or 400 <= one_line(answer) < 500
    assert ranking(client, good) == before


def test_damaged_forms_are_refused(client, query):
    good, rng = query.read_bytes(), np.random.default_rng(5)
    before = ranking(client, good)
    request = client.build_request("POST", "/api/search", files={"speech": ("a.wav", good[:200])})
    whole, content_type = request.read(), request.headers["content-type"]
    for trial in range(40):
        body = bytearray(whole[: rng.integers(1, len(whole))] if trial % 2 else whole)
        for offset in rng.integers(0, len(body), 5):
            body[offset] = rng.integers(256)
        other = "multipart/form-data; boundary=" + "-" * 9
        headers = {"content-type": content_type if trial % 3 else other}
        answer = client.post("/api/search", content=bytes(body), headers=headers)
        assert 400 <= one_line(answer) < 500
    assert ranking(client, good) == before


def test_unknown_ids_and_tokens_are_refused(client, query):
    token = search(client, "speech", "query.wav", query.read_bytes()).json()["token"]
    for name in [*NAMES, "pictures/../../outside.png", "pictures/link.png", "speech/0.flac"]:
        answer = client.post("/api/explain", json={"token": token, "id": name})
        assert one_line(answer) == 404
        answer = client.post("/api/explain", json={"token": name, "id": "pictures/0.png"})
        assert one_line(answer) == 404
    answer = client.post("/api/explain", json={"token": token, "id": "pictures/0.png"})
    assert answer.status_code == 200
