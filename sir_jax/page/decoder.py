"""A process that decodes untrusted uploads with bounded memory and time.

    python -m sir_jax.page.decoder MEMORY_BYTES CPU_SECONDS

Both directions of its pipe carry frames: the sizes of header and body as two big-endian uint32, the
header as JSON, the body. The process first sends a frame that says it is ready, then one reply per
request. A file that needs too much memory is answered with an error. A file that takes too long
ends the process, and the server starts another one (`sir_jax.page.workers`).
"""

import contextlib
import io
import json
import math
import resource
import struct
import sys
from typing import BinaryIO

import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SoundStream, load_audio, load_span
from sir_jax.data.media.image import load_image
from sir_jax.errors import BadMedia, UserError
from sir_jax.page.outline import outline_of
from sir_jax.runtime.process import end_with_parent

SIZES = struct.Struct(">II")
MAX_CHANNELS = 8  # each channel takes memory while it is decoded


def pack(header: dict, body: bytes = b"") -> bytes:
    """Return a frame.

    Args:
      header: plain data.
      body: raw bytes.
    """
    text = json.dumps(header).encode()
    return b"".join((SIZES.pack(len(text), len(body)), text, body))


def decode(header: dict, body: bytes) -> np.ndarray:
    """Decode one upload, or one file of the index.

    Args:
      header: `kind` ("speech", "outline", "picture" or "thumbnail"), `name` for messages, and the
        limits: `max_seconds` for speech, or `span`, the seconds of it that are wanted;
        `max_pixels` for a picture or thumbnail, and `side`, the most pixels of a thumbnail's
        longer side. `path` for an outline or a span: the recording.
      body: else, the file's contents.

    Returns:
      speech: float32[N], mono, 16 kHz; outline: see `outline_of`; picture: uint8[h, w, 3];
      thumbnail: the uint8[bytes] of a JPEG file.

    Raises:
      UserError: the file cannot be decoded within the limits.
    """
    kind, name = header["kind"], header["name"]
    if kind == "outline":
        return outline_of(SoundStream(header["path"], name, MAX_CHANNELS))
    if kind == "speech" and header.get("span"):
        return load_span(header["path"], name, *header["span"])
    if kind == "speech":
        wave = load_audio(body, name, max_seconds=header["max_seconds"], max_channels=MAX_CHANNELS)
        if not wave.size:
            raise BadMedia(f"{name}: holds no sound (0 samples); record it again", "no samples")
        return wave
    image = load_image(body, name, max_pixels=header["max_pixels"])
    if kind == "picture":
        return np.asarray(image)
    image.thumbnail((header["side"], header["side"]), Image.Resampling.LANCZOS, reducing_gap=3)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, subsampling=0)
    return np.frombuffer(out.getvalue(), np.uint8)


def answer(header: dict, body: bytes) -> bytes:
    """Return the frame that answers a request: the array, or an error message and its fault."""
    try:
        array = decode(header, body)
        return pack({"shape": array.shape}, array.tobytes())
    except UserError as error:
        # `load_image` reports any error of a decoder as damage; a lack of memory is none.
        if not isinstance(error.__context__, MemoryError):
            return pack({"error": str(error), "fault": getattr(error, "fault", "undecodable")})
    except MemoryError:
        pass
    message = f"{header['name']}: takes more memory to decode than is allowed; make it smaller"
    return pack({"error": message, "fault": "too large"})


def limit_process(memory: int) -> None:
    """Limit this process's memory; forbid it to write files and core dumps.

    Args:
      memory: bytes of address space.
    """
    for limit, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # macOS refuses to set RLIMIT_AS; the limits of file size and time hold there.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (bound, bound))


def limit_time(seconds: int) -> None:
    """Let the kernel end this process after so many more seconds of computing."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    bound = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or bound < most:
        resource.setrlimit(resource.RLIMIT_CPU, (bound, most))


def serve(requests: BinaryIO, replies: BinaryIO, cpu_seconds: int) -> None:
    """Answer requests until the stream ends.

    Args:
      requests: stream of request frames.
      replies: stream that the reply frames are written to.
      cpu_seconds: most computing time of one request.
    """
    replies.write(pack({"ready": True}))
    replies.flush()
    while sizes := requests.read(SIZES.size):
        head, size = SIZES.unpack(sizes)
        header = json.loads(requests.read(head))
        limit_time(cpu_seconds)
        replies.write(answer(header, requests.read(size)))
        replies.flush()


if __name__ == "__main__":
    end_with_parent()  # also in the middle of a file
    Image.init()  # imports Pillow's format modules before the memory is limited
    limit_process(int(sys.argv[1]))
    # Ctrl-C reaches all processes of the terminal; the server ends this one by closing its pipe.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[2]))
