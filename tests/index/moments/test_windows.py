"""Windows of a stream: all of it, in order, in overlapping pieces; what is silent is told."""

import numpy as np
import pytest
import soundfile

from sir_jax.data.media.audio import SoundStream, load_audio, load_span
from sir_jax.data.media.sound import decode
from sir_jax.errors import UserError
from sir_jax.index.moments.windows import are_heard, level_of, windows_of


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 12, 13, 16, 17, 100])
@pytest.mark.parametrize("block", [1, 3, 8, 50, 1000])
def test_windows_are_the_same_however_the_stream_is_cut(samples, block):
    wave = np.arange(samples, dtype=np.float32)
    found = list(windows_of((wave[n : n + block] for n in range(0, samples, block)), 8))
    starts = [start for start, _ in found]
    last = max(0, samples - 8)
    # Every fourth sample a window of eight, and one that ends with the stream.
    assert starts == sorted({*range(0, last + 1, 4), last})
    for start, window in found:
        np.testing.assert_array_equal(window, wave[start : start + 8])


def test_no_samples_have_no_window():
    assert list(windows_of([], 8)) == []


def test_levels():
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    assert level_of(tone) == pytest.approx(-3.01, abs=0.01)
    # A short word in a long silence is as loud as a long one, and an offset is not heard.
    short = np.where((time > 0.3) & (time < 0.45), 0.1 * tone, 0).astype(np.float32)
    assert level_of(short + 0.5) == pytest.approx(-23, abs=1)
    assert level_of(np.full(16_000, 0.5, np.float32)) == level_of(np.zeros(9)) == -120
    assert are_heard([-20, -25, -70, -55, -62]).tolist() == [True, True, False, True, False]
    assert are_heard([]).tolist() == []


@pytest.fixture
def recording(tmp_path, make_tone, monkeypatch):
    """Return a stereo recording of five seconds at 44.1 kHz that is decoded in many blocks."""
    monkeypatch.setattr(decode, "BLOCK_VALUES", 30_000)
    wave = make_tone(220_500, 44_100) * np.linspace(0.1, 1, 220_500)
    path = tmp_path / "five.wav"
    soundfile.write(path, np.stack([wave, 0.5 * wave], 1), 44_100, subtype="PCM_16")
    return path


def test_a_stream_is_the_sound_in_pieces(recording, tmp_path):
    stream = SoundStream(recording)
    pieces = list(stream)
    assert len(pieces) > 10 and max(map(len, pieces)) < 12_000 and stream.warning == ""
    np.testing.assert_array_equal(np.concatenate(pieces), load_audio(recording))
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(40_000), 16_000)
    stream = SoundStream(silent)
    assert sum(map(len, stream)) == 40_000 and stream.warning == "digital silence"
    cut = tmp_path / "cut.wav"
    cut.write_bytes(recording.read_bytes()[:-9_000])
    with pytest.raises(UserError, match=r"cut\.wav: truncated"):
        list(SoundStream(cut))


def test_a_span_is_a_part_of_the_sound(recording):
    wave = load_span(recording, None, 1.25, 3.5)
    np.testing.assert_array_equal(wave, load_audio(recording)[20_000:56_000])
    assert len(load_span(recording.read_bytes(), "five", 4, 9)) == 16_000
    assert len(load_span(recording, None, 7, 9)) == 0
