"""Formats of telephones, by the extra [media]; and what is said without it."""

import io

import av
import numpy as np
import pytest
from sounds import hum

from sir_jax.data.media.audio import load_audio, load_sound, read_header
from sir_jax.data.media.sound import libav
from sir_jax.errors import BadMedia

SECONDS = 2


def recording(container: str, codec: str, rate: int, channels: int = 1) -> bytes:
    """Return a recording encoded by FFmpeg."""
    out = io.BytesIO()
    wave = hum(SECONDS * rate, channels)
    with av.open(out, "w", format=container) as file:
        layout = {1: "mono", 2: "stereo"}[channels]
        stream = file.add_stream(codec, rate=rate, layout=layout)
        for at in range(0, len(wave), 1000):
            block = np.ascontiguousarray(wave[at : at + 1000].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, at
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


RECORDINGS = {
    "m4a": recording("ipod", "aac", 44_100, 2),
    "aac": recording("adts", "aac", 16_000),
    "webm": recording("webm", "libopus", 48_000),
    "3gp": recording("mp4", "alac", 16_000),
}
# Frames of 20 ms: no encoder ships for AMR.
AMR = b"#!AMR\n" + (b"\x3c" + bytes(range(31))) * 100


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_of_telephones(name):
    wave = load_audio(RECORDINGS[name])
    # Encoders put up to two frames of 1024 samples around the sound.
    assert 0 <= len(wave) - SECONDS * 16_000 < 2500
    header = read_header(RECORDINGS[name])
    assert abs(header.samples / header.rate - SECONDS) < 0.15
    # The hum of 0.05 radians a sample, whatever the rate.
    spectrum = np.abs(np.fft.rfft(wave[4_000:28_000]))
    rate = header.rate
    assert abs(spectrum.argmax() * 16_000 / 24_000 - 0.05 / 2 / np.pi * rate) < 2


def test_amr():
    assert load_sound(AMR).wave.shape == (100 * 320,)


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_cut_recording_is_refused(name):
    whole = RECORDINGS[name]
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(BadMedia, match="x: (truncated|damaged)"):
            load_audio(whole[: int(len(whole) * share)], "x")


def test_limits_are_held():
    with pytest.raises(BadMedia, match="over the limit of 1 s"):
        load_audio(RECORDINGS["aac"], max_seconds=1)
    with pytest.raises(BadMedia, match="2 channels"):
        load_audio(RECORDINGS["m4a"], max_channels=1)


@pytest.mark.parametrize("name", [*RECORDINGS, "amr"])
def test_without_the_extra_it_is_named(monkeypatch, name):
    monkeypatch.setattr(libav, "installed", lambda: False)
    with pytest.raises(BadMedia) as caught:
        load_audio({**RECORDINGS, "amr": AMR}[name], "x")
    assert caught.value.fault == "not supported"
    assert "is not supported; convert it" in str(caught.value)
    assert "pip install 'sir_jax[media]'" in str(caught.value)


def test_a_video_without_sound_is_named():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    with pytest.raises(BadMedia, match="without a stream of sound") as caught:
        load_audio(out.getvalue())
    assert caught.value.fault == "no samples"
