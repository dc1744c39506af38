"""A process that decodes what a stranger sent, with little memory and little time.

    python -m sir_jax.page.decoder MEMORY_BYTES CPU_SECONDS

Both directions of its pipe carry frames: the sizes of header and body as two big-endian uint32,
the header as JSON, the body. A frame of its own says that it is ready; then one reply follows each
request. What does not fit its memory is answered with an error; what takes too long ends it, and
the server starts another (`sir_jax.page.workers`).
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

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.errors import BadMedia, UserError

SIZES = struct.Struct(">II")
# Nobody's recording has more; each costs memory while it is decoded.
MAX_CHANNELS = 8


def pack(header: dict, body: bytes = b"") -> bytes:
    """Return a frame.

    Args:
      header: anything that JSON can hold.
      body: raw bytes.
    """
    text = json.dumps(header).encode()
    return b"".join((SIZES.pack(len(text), len(body)), text, body))


def decode(header: dict, body: bytes) -> np.ndarray:
    """Decode one upload.

    Args:
      header: `kind` ("speech", "picture" or "thumbnail"), `name` for messages, and the kind's
        limits: `max_seconds`; `max_pixels`; `max_pixels` and the thumbnail's longer `side`.
      body: the file's contents.

    Returns:
      speech: float32[N], mono, 16 kHz; picture: uint8[h, w, 3]; thumbnail: the uint8[bytes] of a
      JPEG file.

    Raises:
      UserError: it cannot be decoded within the limits.
    """
    kind, name = header["kind"], header["name"]
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
    """Return the frame that answers a request: the array, or the error and its fault."""
    try:
        array = decode(header, body)
        return pack({"shape": array.shape}, array.tobytes())
    except UserError as error:
        # `load_image` reports whatever a decoder raised; a lack of memory is no damage.
        if not isinstance(error.__context__, MemoryError):
            return pack({"error": str(error), "fault": getattr(error, "fault", "undecodable")})
    except MemoryError:
        pass
    message = f"{header['name']}: takes more memory to decode than is allowed; make it smaller"
    return pack({"error": message, "fault": "too large"})


def limit_process(memory: int) -> None:
    """Bound this process's memory; let it write no file and leave no core.

    Args:
      memory: bytes of address space.
    """
    for what, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # macOS knows RLIMIT_AS by name only; the limits of size and time hold there.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (bound, bound))


def limit_time(seconds: int) -> None:
    """Let the kernel end this process when it has computed for so long from now on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    bound = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or bound < most:
        resource.setrlimit(resource.RLIMIT_CPU, (bound, most))


def serve(requests: BinaryIO, replies: BinaryIO, cpu_seconds: int) -> None:
    """Answer requests until there are no more.

    Args:
      requests: frames.
      replies: where the frames of the answers go.
      cpu_seconds: what one request may compute.
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
    Image.init()  # the formats' modules, before memory is short
    limit_process(int(sys.argv[1]))
    # Ctrl-C reaches every process of the terminal; the server ends this one by closing its pipe.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[2]))
