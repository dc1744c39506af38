"""The decoder processes decode as the library does, and their limits hold."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.errors import BadMedia
from sir_jax.page import decoder
from sir_jax.page.workers import Decoders

MEGA = 1 << 20


def wav(samples, rate=16_000, channels=1, **options):
    file = io.BytesIO()
    values = np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(file, values, rate, format="WAV", **options)
    return file.getvalue()


def png(width, height, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def run(work, **options):
    """Run the coroutine function `work` with a pool of one process; return its result."""

    async def inside():
        decoders = Decoders(1, **options)
        await decoders.start()
        try:
            return await work(decoders)
        finally:
            await decoders.close()

    return asyncio.run(inside())


async def pid_of(decoders):
    """Return the process id of the pool's only process; None if the process has ended."""
    process = await decoders._idle.get()
    decoders._idle.put_nowait(process)
    return process and process.process.pid


async def error_of(work):
    with pytest.raises(BadMedia) as caught:
        await work
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.fault


def test_the_process_imports_no_jax():
    code = (
        "import sys, sir_jax.page.decoder\n"
        "print([m for m in ('jax', 'flax', 'starlette') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_results_equal_decoding_in_this_process():
    stereo = wav(44_100, 44_100, 2)
    picture = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(picture, "PNG")

    async def work(decoders):
        first = await decoders.speech("a.wav", stereo, 10)
        second = await decoders.picture("b.png", picture.getvalue(), 10_000)
        small = await decoders.thumbnail("b.png", picture.getvalue(), 10_000, 20)
        return first, second, small

    wave, image, small = run(work)
    np.testing.assert_array_equal(wave, load_audio(stereo))
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(image, np.asarray(load_image(picture.getvalue())))
    with Image.open(io.BytesIO(small)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (20, 12))


def test_bad_files_are_refused_and_the_process_stays():
    async def work(decoders):
        before = await pid_of(decoders)
        errors = [
            await error_of(decoders.speech("long.wav", wav(32_000), 1.5)),
            await error_of(decoders.speech("empty.wav", wav(0), 10)),
            await error_of(decoders.speech("many.wav", wav(100, channels=9), 10)),
            await error_of(decoders.speech("text.wav", b"no sound at all", 10)),
            await error_of(decoders.picture("wide.png", png(101, 100), 10_000)),
            await error_of(decoders.picture("text.png", b"no picture at all", 10_000)),
        ]
        assert await pid_of(decoders) == before
        return errors

    faults = ["too long", "no samples", "too large", "undecodable", "too large", "undecodable"]
    names = ["long.wav", "empty.wav", "many.wav", "text.wav", "wide.png", "text.png"]
    for (message, fault), expected, name in zip(run(work), faults, names, strict=True):
        assert fault == expected and message.startswith(name)


def test_memory_is_bounded():
    # 36 megapixels need over 144 MB, more than the process has left.
    bomb, sound = png(6000, 6000), wav(16_000)

    async def work(decoders):
        error = await error_of(decoders.picture("bomb.png", bomb, 50_000_000))
        # 768 kHz and 8 channels: 30 seconds decode to 737 MB.
        loud = io.BytesIO()
        with soundfile.SoundFile(loud, "w", 768_000, 8, "PCM_U8", format="WAV") as file:
            for _ in range(30):
                file.write(np.zeros((768_000, 8), np.float32))
        second = await error_of(decoders.speech("loud.wav", loud.getvalue(), 60))
        return error, second, len(await decoders.speech("good.wav", sound, 10))

    *errors, good = run(work, memory=420 * MEGA)
    for message, fault in errors:
        assert fault == "too large"
        assert "memory" in message or "stopped the decoder" in message
    assert good == 16_000


def test_the_kernel_enforces_the_limits():
    """Read the limits of the process from /proc."""

    async def work(decoders):
        await decoders.speech("a.wav", wav(100), 10)
        pid = await pid_of(decoders)
        with open(f"/proc/{pid}/limits") as file:
            return dict((line[:25].strip(), line[26:46].strip()) for line in file)

    limits = run(work, memory=512 * MEGA, seconds=7)
    assert limits["Max address space"] == str(512 * MEGA)
    assert limits["Max file size"] == limits["Max core file size"] == "0"
    assert 7 <= int(limits["Max cpu time"]) <= 30


def test_a_process_that_computes_for_too_long_is_ended_by_the_kernel():
    code = "from sir_jax.page import decoder\ndecoder.limit_time(1)\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert ended.returncode == -signal.SIGXCPU


def test_a_late_process_is_replaced():
    async def work(decoders):
        stopped = await pid_of(decoders)
        os.kill(stopped, signal.SIGSTOP)
        start = time.monotonic()
        error = await error_of(decoders.speech("slow.wav", wav(16_000), 10))
        assert 1 <= time.monotonic() - start < 30
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)
        wave = await decoders.speech("good.wav", wav(16_000), 10)
        return error, len(wave), await pid_of(decoders) != stopped

    (message, fault), good, replaced = run(work, seconds=1)
    assert message == "slow.wav: takes more than 1 s to decode; make it smaller"
    assert fault == "too large" and good == 16_000 and replaced


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_process_that_crashes_is_replaced(moment):
    async def work(decoders):
        pid = await pid_of(decoders)
        os.kill(pid, signal.SIGSTOP if moment == "during" else signal.SIGSEGV)
        if moment == "before":
            await asyncio.sleep(0.2)
        task = asyncio.create_task(decoders.picture("a.png", png(900, 900), MEGA))
        if moment == "during":
            await asyncio.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
        error = await error_of(task)
        return error, (await decoders.picture("b.png", png(9, 7), MEGA)).shape

    (message, fault), shape = run(work)
    assert message == "a.png: stopped the decoder; convert or export it again"
    assert fault == "undecodable" and shape == (7, 9, 3)


def test_a_reply_that_is_too_large_is_refused():
    # A malicious file could have taken over the process.
    async def work(decoders):
        process = await decoders._idle.get()
        decoders._idle.put_nowait(process)
        request = {"kind": "picture", "name": "a.png", "max_pixels": 10_000}
        with pytest.raises(ValueError, match="a reply of"):
            await process.exchange(request, png(50, 50), 100)
        # The rest of the reply is still in the pipe and breaks the next request.
        await error_of(decoders.picture("b.png", png(20, 20), 10_000))
        return (await decoders.picture("b.png", png(20, 20), 10_000)).shape

    assert run(work) == (20, 20, 3)


def test_a_cancelled_request_frees_its_process():
    async def work(decoders):
        os.kill(await pid_of(decoders), signal.SIGSTOP)
        task = asyncio.create_task(decoders.picture("a.png", png(20, 20), MEGA))
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return (await decoders.picture("b.png", png(9, 7), MEGA)).shape

    assert run(work) == (7, 9, 3)


def test_a_request_that_is_cancelled_within_its_reply_ends():
    async def work(decoders):
        process = (decoder := await decoders._idle.get()).process
        decoders._idle.put_nowait(decoder)
        task = asyncio.create_task(decoders.picture("a.png", png(1_500, 2_000), 8 * MEGA))
        while process._transport.get_pipe_transport(1).is_reading():
            await asyncio.sleep(0)
        # Much of the reply has come, and reading pauses until the task has taken it.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        return (await decoders.picture("b.png", png(9, 7), MEGA)).shape

    assert run(work) == (7, 9, 3)


def test_frames():
    frame = decoder.pack({"a": [1]}, b"xyz")
    requests = io.BytesIO(
        decoder.pack({"kind": "picture", "name": "p", "max_pixels": 100}, png(3, 2))
    )
    assert frame == b"\0\0\0\x0a\0\0\0\3" + b'{"a": [1]}xyz'
    replies = io.BytesIO()
    limits = decoder.resource.getrlimit(decoder.resource.RLIMIT_CPU)
    try:
        decoder.serve(requests, replies, 1000)
    finally:
        decoder.resource.setrlimit(decoder.resource.RLIMIT_CPU, limits)
    ready, answer = decoder.pack({"ready": True}), decoder.pack({"shape": [2, 3, 3]}, bytes(18))
    assert replies.getvalue() == ready + answer
