"""MBROLA, in Debian: voices cut from recordings of people, to whom eSpeak NG says what to speak."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.data.media.synthesis.finish import finish
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.errors import UserError

# The program of eSpeak NG, and where Debian puts MBROLA's voices.
_PROGRAM, _VOICES = "espeak-ng", Path("/usr/share/mbrola")
_INSTALL = (
    f"run: apt-get install {_PROGRAM} mbrola mbrola-fr1 (its voices are in Debian's non-free), or "
    f"without root: bash launch/get_voices.sh DIR mbrola && export {FOLDER_VARIABLE}=DIR"
)


def find_mbrola() -> tuple[str, dict[str, str], Path]:
    """Return eSpeak NG's program, the environment that it needs, and the folder of the voices.

    They are looked for in the unpacked packages in the folder $SIR_JAX_VOICES/mbrola, which have
    the voices that the tables name, then on PATH.

    Raises:
      UserError: they are in neither place.
    """
    folder = os.environ.get(FOLDER_VARIABLE, "")
    usr = Path(folder) / "mbrola" / "usr"
    if folder and all(os.access(usr / "bin" / name, os.X_OK) for name in (_PROGRAM, "mbrola")):
        data = next(usr.glob("lib/*-linux-*/espeak-ng-data"), None)
        if data is not None:
            libraries = filter(None, (str(data.parent), os.environ.get("LD_LIBRARY_PATH")))
            # eSpeak NG calls the program mbrola, which it looks for on PATH.
            path = f"{usr / 'bin'}:{os.environ.get('PATH', '')}"
            found = dict(LD_LIBRARY_PATH=":".join(libraries), PATH=path, ESPEAK_DATA_PATH=str(data))
            return str(usr / "bin" / _PROGRAM), os.environ | found, usr / "share" / "mbrola"
    program = shutil.which(_PROGRAM)
    if program and shutil.which("mbrola") and _VOICES.is_dir():
        return program, dict(os.environ), _VOICES
    where = (
        f"and not in {FOLDER_VARIABLE}={folder}" if folder else f"and {FOLDER_VARIABLE} is not set"
    )
    raise UserError(f"the speech synthesiser mbrola is not on PATH, {where}; {_INSTALL}")


def has_voice(name: str) -> bool:
    """Tell whether a voice, such as 'fr1', is installed."""
    try:
        return (find_mbrola()[2] / name / name).is_file()
    except UserError:
        return False


class Mbrola:
    """The MBROLA program, one process an utterance; the same text gives the same sound.

    Rate and pitch are those of `Espeak`: 50 is the voice's own pitch.

    Raises:
      UserError: it is not installed.
    """

    name = "mbrola"

    def __init__(self):
        self._program, self._environment, self._voices = find_mbrola()

    def speak(
        self, text: str, voice: str, rate: float = 170, pitch: float = 50, language: str = ""
    ) -> np.ndarray:
        """Speak a text in the language of a voice; see `Engine.speak`.

        Raises:
          UserError: the voice is not installed.
          RuntimeError: it failed, or gave no sound.
        """
        # Without a voice's file eSpeak NG speaks by its own voice, without a word.
        if not (self._voices / voice / voice).is_file():
            raise UserError(
                f"MBROLA's voice {voice!r} is not in {self._voices}; install mbrola-{voice}"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "spoken.wav")
            command = [self._program, "-v", f"mb-{voice}", "-s", str(round(rate))]
            command += ["-p", str(round(pitch)), "-w", path, "--stdin"]
            run = subprocess.run(
                command,
                input=text.encode(),
                env=self._environment,
                capture_output=True,
                check=False,
            )
            if run.returncode or not os.path.exists(path):
                reason = run.stderr.decode("utf-8", "replace").strip()
                raise RuntimeError(f"mbrola failed for {text!r} by {voice!r}: {reason}")
            sound, own_rate = soundfile.read(path, dtype="int16")
        if not sound.any():
            raise RuntimeError(f"mbrola gave no sound for {text!r} by {voice!r}")
        return finish(sound, own_rate)


@functools.cache
def mbrola() -> Mbrola:
    """Return this process' engine."""
    return Mbrola()
