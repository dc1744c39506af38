"""flite, where it is installed; what is said where it is not."""

import shutil
import stat

import numpy as np
import pytest
from pitch import fundamental

from sir_jax.data.media.synthesis import SAMPLE_RATE, missing_engines, require_engine, voices_of
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE, Flite, find_flite
from sir_jax.errors import UserError

TEXT = "a small orange star"
here = pytest.mark.skipif("flite" in missing_engines(), reason="flite is not installed")


@here
def test_every_voice_speaks_as_itself():
    engine = Flite()
    spoken = {v.name: engine.speak(TEXT, v.name) for v in voices_of("flite")}
    assert len(spoken) == 5 and len({wave.tobytes() for wave in spoken.values()}) == 5
    for name, wave in spoken.items():
        assert wave.dtype == np.int16 and 1 < len(wave) / SAMPLE_RATE < 2.5, name
    np.testing.assert_array_equal(engine.speak(TEXT, "slt"), spoken["slt"])


@here
def test_rate_and_pitch_are_heard():
    engine = Flite()
    own, slow, high = (engine.speak(TEXT, "slt", *how) for how in ((170,), (136,), (170, 75)))
    assert len(slow) / len(own) == pytest.approx(1.25, abs=0.05)
    assert fundamental(high) / fundamental(own) == pytest.approx(2**0.25, rel=0.05)
    assert 150 < fundamental(own) < 200
    assert fundamental(engine.speak(TEXT, "awb", 170, 50)) == pytest.approx(130, rel=0.1)


@here
def test_what_it_does_not_speak_is_refused():
    engine = Flite()
    with pytest.raises(UserError, match="flite has no voice 'joe'; choose one of kal, kal16, slt,"):
        engine.speak(TEXT, "joe")
    with pytest.raises(UserError, match="flite does not speak the language 'fr'; it speaks en"):
        engine.speak(TEXT, "slt", language="fr")
    with pytest.raises(RuntimeError, match="flite gave no sound for ''"):
        engine.speak("", "slt")


def test_unpacked_package_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    program = tmp_path / "flite" / "usr" / "bin" / "flite"
    libraries = tmp_path / "flite" / "usr" / "lib" / "x86_64-linux-gnu"
    for folder in (program.parent, libraries):
        folder.mkdir(parents=True)
    program.touch()
    with pytest.raises(UserError, match=f"not in {FOLDER_VARIABLE}={tmp_path}; run: apt-get"):
        find_flite()  # not yet executable: a package half unpacked
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found, environment = find_flite()
    assert found == str(program)
    assert environment["LD_LIBRARY_PATH"] == f"{libraries}:/elsewhere"


def test_missing_flite_is_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(UserError) as error:
        require_engine("flite")
    assert str(error.value) == (
        "the speech synthesiser flite is not on PATH, and SIR_JAX_VOICES is not set; run: apt-get "
        "install flite, or without root: bash launch/get_voices.sh DIR flite && export "
        "SIR_JAX_VOICES=DIR"
    )
    assert missing_engines()["flite"] == str(error.value)
