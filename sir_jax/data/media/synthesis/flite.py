"""flite, Carnegie Mellon's program in Debian: English by voices made of four people's."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.data.media.synthesis.finish import finish
from sir_jax.errors import UserError

# The folder that `launch/get_voices.sh` has filled.
FOLDER_VARIABLE = "SIR_JAX_VOICES"
# kal and kal16 are one man, at 8 and 16 kHz.
VOICES = ("kal", "kal16", "slt", "rms", "awb")
# A voice's own speed, on the scale of eSpeak NG.
_OWN_RATE = 170


def find_flite() -> tuple[str, dict[str, str]]:
    """Return the program's path, and the environment that it needs.

    It is looked for on PATH, then in the unpacked package in the folder $SIR_JAX_VOICES.

    Raises:
      UserError: it is in neither place.
    """
    program = shutil.which("flite")
    if program:
        return program, dict(os.environ)
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if folder:
        usr = Path(folder) / "flite" / "usr"
        if os.access(usr / "bin" / "flite", os.X_OK):
            libraries = [*map(str, usr.glob("lib/*-linux-*")), os.environ.get("LD_LIBRARY_PATH")]
            path = ":".join(filter(None, libraries))
            return str(usr / "bin" / "flite"), {**os.environ, "LD_LIBRARY_PATH": path}
    where = (
        f"and not in {FOLDER_VARIABLE}={folder}" if folder else f"and {FOLDER_VARIABLE} is not set"
    )
    raise UserError(
        f"the speech synthesiser flite is not on PATH, {where}; run: apt-get install flite, or "
        f"without root: bash launch/get_voices.sh DIR flite && export {FOLDER_VARIABLE}=DIR"
    )


class Flite:
    """The flite program, one process an utterance; the same text gives the same sound.

    The rate is in words per minute, where 170 is the voice's own speed. The pitch is from 0 to 99;
    50 is the voice's own, 100 more an octave. rms knows no other pitch than its own.

    Raises:
      UserError: flite is not installed.
    """

    name = "flite"

    def __init__(self):
        self._program, self._environment = find_flite()

    def speak(
        self, text: str, voice: str, rate: float = 170, pitch: float = 50, language: str = "en"
    ) -> np.ndarray:
        """Speak an English text; see `Espeak.speak`.

        Raises:
          UserError: flite has no such voice, or does not speak the language.
          RuntimeError: it failed, or gave no sound.
        """
        # flite speaks by another voice, without a word, where it has not the one that it is told.
        if voice not in VOICES:
            raise UserError(f"flite has no voice {voice!r}; choose one of {', '.join(VOICES)}")
        if language.lower().replace("_", "-").partition("-")[0] != "en":
            raise UserError(f"flite does not speak the language {language!r}; it speaks en")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "spoken.wav")
            command = [self._program, "-voice", voice]
            command += ["--setf", f"duration_stretch={_OWN_RATE / rate:.4f}"]
            command += ["--setf", f"f0_shift={2 ** ((pitch - 50) / 100):.4f}"]
            command += ["-t", text, "-o", path]
            run = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, check=False
            )
            if run.returncode or not os.path.exists(path):
                raise RuntimeError(f"flite failed for {text!r} by {voice!r}: {run.stderr.strip()}")
            sound, own_rate = soundfile.read(path, dtype="int16")
        # Of nothing, its statistical voices make a short loud noise.
        if not sound.any() or not any(letter.isalnum() for letter in text):
            raise RuntimeError(f"flite gave no sound for {text!r} by {voice!r}")
        return finish(sound, own_rate)


@functools.cache
def flite() -> Flite:
    """Return this process' engine."""
    return Flite()
