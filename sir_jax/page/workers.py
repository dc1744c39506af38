"""The server's side of the decoders: a pool of processes, each replaced when it fails."""

import asyncio
import contextlib
import json
import math
import os
import sys

import numpy as np

from sir_jax.errors import BadMedia
from sir_jax.page.decoder import SIZES, pack

# A busy machine takes seconds to import NumPy.
START_SECONDS = 60
MAX_HEADER = 1 << 16


class _Decoder:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process

    @classmethod
    async def start(cls, memory: int, cpu_seconds: int) -> "_Decoder":
        process = await asyncio.create_subprocess_exec(
            # -P: modules that lie in the folder where a person stands are not ours.
            sys.executable,
            "-P",
            "-m",
            "sir_jax.page.decoder",
            str(memory),
            str(cpu_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # decoders of damaged files chatter
            # Each thread of BLAS reserves address space, of which there is little.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        decoder = cls(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                await decoder._read(0)
        except BaseException:
            await decoder.kill()
            raise
        return decoder

    async def exchange(self, header: dict, body: bytes, most: int) -> tuple[dict, bytes]:
        self.process.stdin.write(pack(header, body))
        await self.process.stdin.drain()
        return await self._read(most)

    async def _read(self, most: int) -> tuple[dict, bytes]:
        head, size = SIZES.unpack(await self.process.stdout.readexactly(SIZES.size))
        if head > MAX_HEADER or size > most:
            raise ValueError(f"a reply of {head} + {size} bytes")
        header = json.loads(await self.process.stdout.readexactly(head))
        return header, await self.process.stdout.readexactly(size)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        # Else the transport would be collected open, with a warning.
        self.process.stdin.close()
        await self.process.wait()


class Decoders:
    """Decode untrusted files in processes that may fail without harm to this one."""

    def __init__(self, count: int = 2, memory: int = 1 << 30, seconds: int = 15):
        """Prepare the pool; processes start at `start`, or when they are needed.

        Args:
          count: processes, and so files that are decoded at once.
          memory: bytes of address space of each.
          seconds: what one file may take, by the clock and by the processor.
        """
        self.memory, self.seconds = memory, seconds
        self._idle: asyncio.Queue[_Decoder | None] = asyncio.Queue()
        for _ in range(count):
            self._idle.put_nowait(None)
        self._count = count

    async def start(self) -> None:
        """Start the processes, so that the first file does not wait for them."""
        for _ in range(self._count):
            self._idle.put_nowait(
                await self._idle.get() or await _Decoder.start(self.memory, self.seconds)
            )

    async def close(self) -> None:
        """End the processes, as soon as each is idle."""
        for _ in range(self._count):
            if decoder := await self._idle.get():
                await decoder.kill()

    async def speech(self, name: str, data: bytes, max_seconds: float) -> np.ndarray:
        """Decode a recording.

        Args:
          name: what messages call it.
          data: the file's contents.
          max_seconds: longer ones are refused by their header.

        Returns:
          float32[N], N from 1 up, mono, 16 kHz.

        Raises:
          BadMedia: it cannot be decoded within the limits.
        """
        request = {"kind": "speech", "name": name, "max_seconds": max_seconds}
        # 4 bytes for each of 16,000 samples a second, and one more for rounding up.
        return await self._run(request, data, np.float32, 64_000 * math.ceil(max_seconds) + 4)

    async def picture(self, name: str, data: bytes, max_pixels: int) -> np.ndarray:
        """Decode a picture.

        Args:
          name: what messages call it.
          data: the file's contents.
          max_pixels: larger ones are refused by their header.

        Returns:
          uint8[h, w, 3].

        Raises:
          BadMedia: it cannot be decoded within the limits.
        """
        request = {"kind": "picture", "name": name, "max_pixels": max_pixels}
        return await self._run(request, data, np.uint8, 3 * max_pixels)

    async def thumbnail(self, name: str, data: bytes, max_pixels: int, side: int) -> bytes:
        """Return a picture's JPEG whose longer side is `side` pixels at most; as `picture`."""
        request = {"kind": "thumbnail", "name": name, "max_pixels": max_pixels, "side": side}
        return (await self._run(request, data, np.uint8, 6 * side * side + 4096)).tobytes()

    async def _run(self, request: dict, data: bytes, dtype, most: int) -> np.ndarray:
        """Let a process answer; kill it where it is late, dead or answers nonsense."""
        name, decoder = request["name"], await self._idle.get()
        done = False
        try:
            decoder = decoder or await _Decoder.start(self.memory, self.seconds)
            async with asyncio.timeout(self.seconds):
                header, body = await decoder.exchange(request, data, most)
            array = (
                None if "error" in header else np.frombuffer(body, dtype).reshape(header["shape"])
            )
            done = True
        except TimeoutError:
            raise BadMedia(
                f"{name}: takes more than {self.seconds} s to decode; make it smaller", "too large"
            ) from None
        except (ConnectionError, asyncio.IncompleteReadError, ValueError, KeyError):
            raise BadMedia(f"{name}: stopped the decoder; convert or export it again") from None
        finally:
            # First of all: whoever waits here may be cancelled.
            self._idle.put_nowait(decoder if done else None)
            if decoder is not None and not done:
                await decoder.kill()
        if array is None:
            raise BadMedia(header["error"], header["fault"])
        return array
