"""A pool of decoder processes (`sir_jax.page.decoder`); a process that fails is replaced."""

import asyncio
import contextlib
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

from sir_jax.errors import BadMedia
from sir_jax.page.decoder import SIZES, pack
from sir_jax.page.outline import PEAKS

START_SECONDS = 60  # importing NumPy takes long on a busy machine
MAX_HEADER = 1 << 16


class _Decoder:
    """One decoder process."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process

    @classmethod
    async def start(cls, memory: int, cpu_seconds: int) -> "_Decoder":
        process = await asyncio.create_subprocess_exec(
            # -P: do not import modules from the working directory.
            sys.executable,
            "-P",
            "-m",
            "sir_jax.page.decoder",
            str(memory),
            str(cpu_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # libraries print warnings about damaged files
            # Each BLAS thread reserves address space, which is limited.
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
        # An open transport would cause a warning when it is garbage-collected.
        self.process.stdin.close()
        # `wait` waits for the pipe, too, and nobody reads the rest of a reply that was left.
        await self.process.stdout.read()
        await self.process.wait()


class Decoders:
    """Decode untrusted files in separate processes, so that a crash does not harm the server."""

    def __init__(self, count: int = 2, memory: int = 1 << 30, seconds: int = 15):
        """Prepare the pool; `start` or the first files start the processes.

        Args:
          count: number of processes, so of files that are decoded at once.
          memory: bytes of address space of each process.
          seconds: most seconds per file, both elapsed and of computing.
        """
        self.memory, self.seconds = memory, seconds
        self._idle: asyncio.Queue[_Decoder | None] = asyncio.Queue()
        for _ in range(count):
            self._idle.put_nowait(None)
        self._count = count

    async def start(self) -> None:
        """Start all processes, so that the first file need not wait for one."""
        for _ in range(self._count):
            self._idle.put_nowait(
                await self._idle.get() or await _Decoder.start(self.memory, self.seconds)
            )

    async def close(self) -> None:
        """End each process as soon as it is idle."""
        for _ in range(self._count):
            if decoder := await self._idle.get():
                await decoder.kill()

    async def speech(
        self,
        name: str,
        data: bytes,
        max_seconds: float,
    ) -> np.ndarray:
        """Decode a recording.

        Args:
          name: the file's name in messages.
          data: the file's contents.
          max_seconds: longer recordings are refused without decoding them.

        Returns:
          float32[N], N from 1 up, mono, 16 kHz.

        Raises:
          BadMedia: the file cannot be decoded within the limits.
        """
        request = {"kind": "speech", "name": name, "max_seconds": max_seconds}
        return await self._run(request, data, np.float32, _bytes_of(max_seconds))

    async def span(self, name: str, path: Path, span: tuple[float, float]) -> np.ndarray:
        """Decode a part of a recording of any length; the process reads the file itself.

        Args:
          name: the file's name in messages.
          path: the recording.
          span: where the part begins and ends, in seconds.

        Returns:
          float32[N], mono, 16 kHz.

        Raises:
          BadMedia: the file cannot be decoded within the limits.
        """
        request = {"kind": "speech", "name": name, "path": str(path), "span": span}
        return await self._run(request, b"", np.float32, _bytes_of(span[1] - span[0]))

    async def outline(self, name: str, path: Path) -> np.ndarray:
        """Return the outline of a recording of any length, see `outline_of`; likewise."""
        request = {"kind": "outline", "name": name, "path": str(path)}
        return await self._run(request, b"", np.float32, 4 * (PEAKS + 1))

    async def picture(self, name: str, data: bytes, max_pixels: int) -> np.ndarray:
        """Decode a picture.

        Args:
          name: the file's name in messages.
          data: the file's contents.
          max_pixels: larger pictures are refused without decoding them.

        Returns:
          uint8[h, w, 3].

        Raises:
          BadMedia: the file cannot be decoded within the limits.
        """
        request = {"kind": "picture", "name": name, "max_pixels": max_pixels}
        return await self._run(request, data, np.uint8, 3 * max_pixels)

    async def thumbnail(self, name: str, data: bytes, max_pixels: int, side: int) -> bytes:
        """Return a picture as a JPEG file whose longer side has at most `side` pixels."""
        request = {"kind": "thumbnail", "name": name, "max_pixels": max_pixels, "side": side}
        return (await self._run(request, data, np.uint8, 6 * side * side + 4096)).tobytes()

    async def _run(self, request: dict, data: bytes, dtype, most: int) -> np.ndarray:
        """Let a process answer a request; kill it if it is late, dead or its answer is invalid."""
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
            # Before any `await`, where this task may be cancelled and the process be lost.
            self._idle.put_nowait(decoder if done else None)
            if decoder is not None and not done:
                await decoder.kill()
        if array is None:
            raise BadMedia(header["error"], header["fault"])
        return array


def _bytes_of(seconds: float) -> int:
    # 16,000 samples of 4 bytes per second, and one sample more for rounding up.
    return 64_000 * math.ceil(seconds) + 4
