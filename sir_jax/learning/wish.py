"""What is to be learnt, and where it goes."""

import dataclasses
import math
import os
from pathlib import Path

from sir_jax.errors import UserError

# The least that each number may be.
_LEAST = {"voices": 1, "steps": 1, "batch_size": 2, "hold_out_pictures": 0}


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be learnt, and where it goes.

    Attributes:
      images: folder of the pictures, with all folders in it.
      out: folder that gets the release, the index and what is between.
      captions: a CSV, TSV, JSON or JSON lines file; None for the text beside each picture, else its
        own fields.
      languages: of the captions (BCP 47); none for all that they state.
      data_dir: folder of the corpora; None for $SIR_JAX_DATA or `data`.
      model: a release to go on from; '' for the small encoders that ship.
      hold_out_pictures: percent of the pictures that training does not see and the test asks for.
        With 0 all are learnt, and the test asks for them by voices that training does not hear.
      minutes: about how long training may take.
      voices: that say each caption in training; None to choose.
      engines: the synthesisers that speak; none to choose.
      steps: of training; None to choose.
      batch_size: pairs a step; None to choose.
      encoding: of the captions' text; '' to find out.
      tolerance: share of the captions that may be left out; None for 0.01.
      cores: of the machine; None to count them.
    """

    images: str | os.PathLike
    out: str | os.PathLike
    captions: str | os.PathLike | None = None
    languages: tuple[str, ...] = ()
    data_dir: str | os.PathLike | None = None
    model: str = ""
    hold_out_pictures: int = 0
    minutes: float = 20.0
    voices: int | None = None
    engines: tuple[str, ...] = ()
    steps: int | None = None
    batch_size: int | None = None
    encoding: str = ""
    tolerance: float | None = None
    cores: int | None = None

    def __post_init__(self):
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; give {least} or more")
        if not 0 < self.minutes < math.inf:
            raise UserError(f"minutes is {self.minutes:g}; give a number above 0")
        for name in ("images", "out", "captions"):
            value = getattr(self, name)
            path = None if value is None else Path(value).expanduser()
            object.__setattr__(self, name, path)
        images, out = self.images.resolve(), self.out.resolve()
        if out == images or images in out.parents:
            raise UserError(
                f"out {str(self.out)!r} lies in the pictures' folder {str(self.images)!r}; choose "
                "a folder outside of it"
            )

    def asked(self) -> dict[str, object]:
        """Return what decides the result, as plain data."""
        plain = dataclasses.asdict(self)
        for name in ("out", "data_dir", "cores"):
            del plain[name]
        for name in ("images", "captions"):
            plain[name] = str(plain[name].resolve()) if plain[name] else ""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in plain.items()}
