"""A small corpus of one's own with every kind of broken file, and what must be said of each."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

RATE = 16_000


def wav(samples: int = 3200, seed: int = 0, rate: int = RATE, channels: int = 1) -> bytes:
    """Return a 16-bit WAV file of noise."""
    wave = np.random.default_rng(seed).integers(-30_000, 30_000, (samples, channels))
    out = io.BytesIO()
    soundfile.write(out, wave.astype(np.int16), rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def picture(seed: int = 0, kind: str = "PNG") -> bytes:
    """Return a picture of noise, 32 x 32."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def bomb() -> bytes:
    """Return a PNG file of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def long_clip() -> bytes:
    """Return two minutes of silence as FLAC."""
    out = io.BytesIO()
    soundfile.write(out, np.zeros(120 * RATE, np.int16), RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


# Path -> content (None: not there, 'fifo', 'folder') and reason.
SOUNDS = {
    "a/garbage.wav": (b"nothing like a sound" * 40, "undecodable audio"),
    "a/noise.flac": (b"fLaC" + b"\x80" * 400, "undecodable audio"),
    "a/cut.wav": (wav()[:2000], "truncated audio"),
    "a/empty.wav": (b"", "truncated audio"),
    "a/silent.wav": (wav(0), "no samples"),
    "a/long.flac": (long_clip(), "too long"),
    "a/none.wav": (None, "missing audio"),
    "a/slow.wav": (wav(rate=8000), "wrong rate"),
    "a/fifo.wav": ("fifo", "undecodable audio"),
    "a/folder.wav": ("folder", "undecodable audio"),
    "a/wide.wav": (wav(channels=9), "too large"),
}
PICTURES = {
    "i/garbage.png": (b"nothing like a picture" * 40, "undecodable image"),
    "i/cut.jpg": (picture(kind="JPEG")[:-300], "truncated image"),
    "i/cut.png": (picture()[:-300], "truncated image"),
    "i/empty.png": (b"", "truncated image"),
    "i/none.png": (None, "missing image"),
    "i/bomb.png": (bomb(), "too large"),
    "i/fifo.png": ("fifo", "undecodable image"),
}


def _put(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == "fifo":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)


def make_corpus(folder: Path, good: int) -> tuple[Path, dict[str, dict[str, str]], set]:
    """Write a corpus with a manifest.

    Args:
      folder: where it goes.
      good: number of good pictures, with two recordings each.

    Returns:
      The manifest; picture -> recording -> split, of all that is good; and (path, reason) of all
      that must be listed.
    """
    lines, kept, listed = [], {}, set()

    def line(image: str, audio: str, split: str = "train") -> None:
        lines.append(json.dumps({"image": image, "audio": audio, "split": split, "text": audio}))

    for i in range(good):
        image, split = f"i/{i}.{'jpg' if i % 2 else 'png'}", "val" if i % 10 == 9 else "train"
        _put(folder / image, picture(i, "JPEG" if i % 2 else "PNG"))
        for k in range(2):
            audio = f"a/{i}_{k}.wav"
            _put(folder / audio, wav(3000 + i, seed=2 * i + k))
            line(image, audio, split)
            kept.setdefault(image, {})[audio] = split
    # A bad sound among good ones of a picture that stays.
    for i, (audio, (content, reason)) in enumerate(SOUNDS.items()):
        _put(folder / audio, content)
        image = f"i/{i}.{'jpg' if i % 2 else 'png'}"
        line(image, audio, kept[image][f"a/{i}_0.wav"])
        listed.add((audio, reason))
    # A bad picture with a good sound.
    for image, (content, reason) in PICTURES.items():
        audio = f"a/of_{Path(image).name}.wav"
        _put(folder / image, content)
        _put(folder / audio, wav(seed=99))
        line(image, audio)
        listed |= {(image, reason), (audio, "no image")}
    # A good picture with a bad sound only; a sound named twice; lines that are none.
    _put(folder / "i/quiet.png", picture(77))
    line("i/quiet.png", "a/nowhere.wav")
    listed |= {("i/quiet.png", "no audio"), ("a/nowhere.wav", "missing audio")}
    line("i/0.png", "a/1_0.wav")
    listed.add(("a/1_0.wav", "duplicate id"))
    lines.append('{"image": "i/0.png", "aud')
    listed.add((f"list.jsonl:{len(lines)}", "bad metadata"))
    manifest = folder / "list.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest, kept, listed
