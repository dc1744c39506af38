"""What augmentation does to training clips: probabilities and ranges of its effects."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sir_jax.config.augment_fields import EFFECTS, preset_values
from sir_jax.config.check import check_section
from sir_jax.data.media.sound_folder import SoundFolder

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """Augmentation of training waveforms; by default there is none.

    Attributes:
      speed: probability of a change of speed.
      factor: range of the speed's factor; above 1 is faster and higher in pitch.
      pitch: probability of a change of pitch.
      semitones: range of the change; above 0 is higher.
      tempo: probability of a change of tempo.
      tempo_factor: range of the tempo's factor; above 1 is faster.
      tract: probability of a vocal tract of another length.
      tract_factor: range of the formants' factor; above 1 is a shorter tract.
      silence: probability of silence that is put in.
      before: range of the seconds of silence before the words.
      within: range of the seconds of a pause between the words.
      after: range of the seconds of silence after the words.
      floor_db: range of the noise in that silence against the clip's mean power, in dB.
      digital: share of clips whose silence is digital, without any noise.
      reverb: probability of reverberation.
      t60: range of a made room response's reverberation time, in seconds.
      direct_ratio: range of a made response's energy in the direct path over the rest, in dB.
      reverb_folder: recorded room responses, used instead of made ones; None for made ones.
      noise: probability of noise.
      snr: range of the signal-to-noise ratio in dB.
      noise_kinds: names in NOISES to choose from.
      noise_folder: recorded noise, used instead of made noise; None for made noise.
      clipping: probability of clipping.
      clipping_db: range of the ceiling below the clip's peak, in dB.
      telephone: probability of telephone sound.
      mu_law: True to code telephone sound in 8 bits, too.
      codec: probability of a lossy codec.
      codec_kinds: names in CODECS to choose from.
      kbps: range of the codec's kilobits a second.
      mask: probability of masked stretches.
      stretches: most stretches of zeros in a clip.
      seconds: range of the length of one.
      bands: most bands of frequencies that are taken out of a clip.
      hertz: range of the width of one.
      gain: probability of a change of loudness.
      gain_db: range of the gain in dB.
    """

    speed: float = 0.0
    factor: Range = (0.9, 1.1)
    reverb: float = 0.0
    t60: Range = (0.2, 0.8)
    direct_ratio: Range = (0.0, 12.0)
    reverb_folder: SoundFolder | None = None
    noise: float = 0.0
    snr: Range = (5.0, 25.0)
    noise_kinds: tuple[str, ...] = ("white", "pink", "babble")
    noise_folder: SoundFolder | None = None
    telephone: float = 0.0
    mu_law: bool = True
    gain: float = 0.0
    gain_db: Range = (-6.0, 6.0)
    pitch: float = 0.0
    semitones: Range = (-3.0, 3.0)
    tempo: float = 0.0
    tempo_factor: Range = (0.85, 1.2)
    tract: float = 0.0
    tract_factor: Range = (0.85, 1.15)
    silence: float = 0.0
    before: Range = (0.0, 1.0)
    within: Range = (0.0, 0.0)
    after: Range = (0.0, 0.5)
    floor_db: Range = (-70.0, -40.0)
    digital: float = 0.5
    clipping: float = 0.0
    clipping_db: Range = (3.0, 12.0)
    codec: float = 0.0
    codec_kinds: tuple[str, ...] = ("mp3", "opus", "mu_law")
    kbps: Range = (8.0, 32.0)
    mask: float = 0.0
    stretches: int = 2
    seconds: Range = (0.02, 0.1)
    bands: int = 1
    hertz: Range = (100.0, 800.0)

    @property
    def active(self) -> bool:
        """Tell whether any effect has a probability above 0."""
        return any(getattr(self, effect) for effect in EFFECTS)

    @property
    def can_be_stored(self) -> bool:
        """Tell whether a draw can be stored: clips keep their lengths, and no file is read."""
        folders = self.reverb_folder, self.noise_folder
        return not (self.speed or self.tempo or self.silence or any(folders))

    @classmethod
    def from_config(cls, augment_cfg: Any) -> "AugmentSpec":
        """Read and check `data.augment`.

        Raises:
          UserError: a field is invalid. The message names it, its value and the valid values.
        """
        c = augment_cfg
        check_section("data.augment", c)
        return cls(
            **{name: float(c[name].probability) for name in EFFECTS},
            factor=_range(c.speed.factor),
            semitones=_range(c.pitch.semitones),
            tempo_factor=_range(c.tempo.factor),
            tract_factor=_range(c.tract.factor),
            **{name: _range(c.silence[name]) for name in ("before", "within", "after", "floor_db")},
            digital=float(c.silence.digital),
            t60=_range(c.reverb.t60),
            direct_ratio=_range(c.reverb.direct_ratio),
            reverb_folder=_folder(c, "reverb"),
            snr=_range(c.noise.snr),
            noise_kinds=tuple(c.noise.kinds),
            noise_folder=_folder(c, "noise"),
            clipping_db=_range(c.clipping.db),
            mu_law=bool(c.telephone.mu_law),
            codec_kinds=tuple(c.codec.kinds),
            kbps=_range(c.codec.kbps),
            stretches=int(c.mask.stretches),
            seconds=_range(c.mask.seconds),
            bands=int(c.mask.bands),
            hertz=_range(c.mask.hertz),
            gain_db=_range(c.gain.db),
        )

    @classmethod
    def preset(cls, name: str) -> "AugmentSpec":
        """Return what `data.augment=NAME` means, e.g. of 'people'."""
        plain: dict[str, dict] = {}
        for field, value in preset_values(name).items():
            effect, _, last = field.partition(".")
            plain.setdefault(effect, {})[last] = value
        return cls.from_config(ConfigDict(plain))

    def draw_silence(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw how much silence clips get.

        Args:
          count: number of clips.
          rng: random generator.

        Returns:
          float64 [count, 3], in seconds, before, within and after; zeros for clips that get none.
        """
        chosen = rng.random(count) < self.silence
        spans = np.array([self.before, self.within, self.after])
        return chosen[:, None] * rng.uniform(spans[:, 0], spans[:, 1], (count, 3))


def _range(values: Any) -> Range:
    least, largest = map(float, values)
    return least, largest


def _folder(cfg: Any, effect: str) -> SoundFolder | None:
    path = cfg[effect].folder
    return SoundFolder(path, f"data.augment.{effect}.folder") if path else None
