"""MBROLA, where it is installed; how it is found and asked, and what is said where it is not."""

import os
import shutil
import sys

import numpy as np
import pytest
from pitch import fundamental

from sir_jax.data.media.synthesis import SAMPLE_RATE, require_engine, voices_of
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.data.media.synthesis.mbrola import Mbrola, find_mbrola, has_voice
from sir_jax.errors import UserError

here = pytest.mark.skipif(not has_voice("fr1"), reason="MBROLA and its voice fr1 are not installed")

# Stands for the program of eSpeak NG: keeps what it was asked, and writes a tone of 220 Hz.
PROGRAM = """#!{python}
import sys
import numpy as np, soundfile
asked = sys.argv[1:]
text = sys.stdin.buffer.read().decode()
open({log!r}, "w").write("|".join([*asked[:6], text]))
tone = 0.3 * np.sin(2 * np.pi * 440 / 22050 * np.arange(22050 if text != "quiet" else 0))
soundfile.write(asked[asked.index("-w") + 1], tone if tone.size else np.zeros(100), 22050)
"""


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A folder as `launch/get_voices.sh` fills it, with one voice."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    usr = tmp_path / "mbrola" / "usr"
    for folder in ("bin", "lib/x86_64-linux-gnu/espeak-ng-data", "share/mbrola/fr1"):
        (usr / folder).mkdir(parents=True)
    (usr / "share" / "mbrola" / "fr1" / "fr1").touch()
    (usr / "bin" / "mbrola").touch(0o755)
    program = usr / "bin" / "espeak-ng"
    program.write_text(PROGRAM.format(python=sys.executable, log=str(tmp_path / "asked")))
    program.chmod(0o755)
    return usr


def test_unpacked_packages_are_found_and_asked(unpacked, tmp_path):
    program, environment, voices = find_mbrola()
    assert program == str(unpacked / "bin" / "espeak-ng")
    assert environment["PATH"].startswith(f"{unpacked / 'bin'}:")
    library = unpacked / "lib" / "x86_64-linux-gnu"
    assert environment["LD_LIBRARY_PATH"].split(":")[0] == str(library)
    assert environment["ESPEAK_DATA_PATH"] == str(library / "espeak-ng-data")
    assert voices == unpacked / "share" / "mbrola"
    assert has_voice("fr1") and not has_voice("fr2")
    wave = Mbrola().speak("un été", "fr1", 160.4, 55)
    assert (tmp_path / "asked").read_text().split("|")[:4] == ["-v", "mb-fr1", "-s", "160"]
    assert (tmp_path / "asked").read_text().split("|")[4:] == ["-p", "55", "un été"]
    assert wave.dtype == np.int16 and len(wave) == pytest.approx(SAMPLE_RATE, abs=20)
    assert fundamental(wave) == pytest.approx(220, rel=0.02)


def test_what_cannot_be_spoken_is_one_line(unpacked):
    with pytest.raises(UserError, match=r"MBROLA's voice 'fr2' is not in .*; install mbrola-fr2"):
        Mbrola().speak("un", "fr2")
    with pytest.raises(RuntimeError, match="mbrola gave no sound for 'quiet' by 'fr1'"):
        Mbrola().speak("quiet", "fr1")
    (unpacked / "bin" / "espeak-ng").write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    with pytest.raises(RuntimeError, match="mbrola failed for 'un' by 'fr1': broken"):
        Mbrola().speak("un", "fr1")
    os.remove(unpacked / "bin" / "mbrola")  # half unpacked
    with pytest.raises(UserError, match="the speech synthesiser mbrola is not on PATH, and not in"):
        require_engine("mbrola")


def test_voices_are_dealt_for_good():
    french = {v.name: v.split for v in voices_of("mbrola", "fr_BE")}
    assert french.pop("fr4") == "test" and french.pop("fr7") == "val"
    assert set(french.values()) == {"train"} and len(french) == 7
    assert [v.name for v in voices_of("mbrola", "en", "test")] == ["us2"]
    assert {v.language for v in voices_of("mbrola", "pt-BR")} == {"pt-br"}
    names = [v.name for v in voices_of("mbrola", "")]
    assert len(set(names)) == len(names) > 60
    with pytest.raises(
        UserError, match="mbrola does not speak the language 'ru'; it speaks af, ar"
    ):
        voices_of("mbrola", "ru")


@here
def test_every_installed_french_voice_speaks_as_itself():
    engine = Mbrola()
    spoken = {
        v.name: engine.speak("un chat noir", v.name)
        for v in voices_of("mbrola", "fr")
        if has_voice(v.name)
    }
    assert len({wave.tobytes() for wave in spoken.values()}) == len(spoken)
    for name, wave in spoken.items():
        assert 0.5 < len(wave) / SAMPLE_RATE < 2.5, name
    np.testing.assert_array_equal(engine.speak("un chat noir", "fr1"), spoken["fr1"])
    slow = engine.speak("un chat noir", "fr1", 120)
    assert len(slow) > 1.1 * len(spoken["fr1"])
