"""The parameters of a corpus of spoken captions, and the name that fixes its content."""

import dataclasses
import re

from sir_jax.data.builders.spoken import ESPEAK
from sir_jax.data.builders.voices.config import check_language
from sir_jax.data.media.synthesis.engines import ENGINES
from sir_jax.errors import UserError

ALL = "all"  # the languages that the captions state
MAX_VOICES = 40
# Of a folder's name, which also has a version, splits and numbers of shards below it.
_LONGEST_NAME = 200
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_NAME = re.compile(
    r"(?P<label>[^_]+)_(?P<languages>[^_]+)_v(?P<voices>\d{1,9})_p(?P<pictures>\d{1,9})"
    r"_(?P<engines>[^_]+)_(?P<digest>[0-9a-f]{12})"
)


@dataclasses.dataclass(frozen=True)
class CaptionsConfig:
    """Parameters of one corpus.

    Attributes:
      languages: in which captions are said (BCP 47); none for all that the captions state.
      voices: how often a caption is said in training, each time by another voice.
      hold_out_pictures: percent of the pictures that are in the test split and in no other; half
        as many are in the validation split. A split that the captions state stays as it is. With 0,
        and where they state none, each picture is in every split, said by that split's voices.
      engines: the synthesisers that speak.
      label: what the name begins with.
      digest: 12 hexadecimal digits of the plan and of the pictures' bytes; '' before they are
        known.
    """

    languages: tuple[str, ...] = ()
    voices: int = 6
    hold_out_pictures: int = 10
    engines: tuple[str, ...] = ("espeak",)
    label: str = "captions"
    digest: str = ""

    def __post_init__(self):
        for code in self.languages:
            check_language(code, "languages")
        if not 1 <= self.voices <= MAX_VOICES:
            raise UserError(f"voices is {self.voices}; give 1 to {MAX_VOICES}")
        if not 0 <= self.hold_out_pictures <= 60:
            raise UserError(f"hold_out_pictures is {self.hold_out_pictures}; give 0 to 60 percent")
        for engine in self.engines:
            if engine not in ENGINES:
                raise UserError(
                    f"there is no speech synthesiser {engine!r}; choose among {', '.join(ENGINES)}"
                )
        if ESPEAK not in self.engines:
            # No other has voices of the validation split.
            given = ", ".join(self.engines)
            raise UserError(f"engines is {given!r} without {ESPEAK!r}, which every corpus needs")
        if not _LABEL.fullmatch(self.label):
            raise UserError(f"name {self.label!r}: use letters and digits, with '-' between them")
        ordered = tuple(name for name in ENGINES if name in self.engines)
        object.__setattr__(self, "languages", tuple(sorted(set(self.languages))))
        object.__setattr__(self, "engines", ordered)
        if len(self.name) > _LONGEST_NAME:
            raise UserError(
                f"the corpus' name would have {len(self.name)} letters; name fewer languages, or "
                "none for all that the captions state"
            )

    @property
    def name(self) -> str:
        """Return the name, which encodes all parameters."""
        return (
            f"{self.label}_{'.'.join(self.languages) or ALL}_v{self.voices}"
            f"_p{self.hold_out_pictures}_{'.'.join(self.engines)}_{self.digest or '0' * 12}"
        )

    @classmethod
    def from_name(cls, name: str) -> "CaptionsConfig":
        """Return the parameters that a name encodes.

        Raises:
          UserError: no corpus has such a name.
        """
        match = _NAME.fullmatch(name)
        if match:
            config = cls(
                () if match["languages"] == ALL else tuple(match["languages"].split(".")),
                int(match["voices"]),
                int(match["pictures"]),
                tuple(match["engines"].split(".")),
                match["label"],
                match["digest"],
            )
            if config.name == name:
                return config
        example = dataclasses.replace(cls(("fr",)), digest="0123456789ab").name
        raise UserError(
            f"{name!r} is no name of a spoken_captions corpus; one looks like {example!r} (label, "
            "languages, voices, percent of pictures, engines, digest of its content)"
        )

    def command(self) -> str:
        """Return the command that makes this corpus."""
        languages = f" --languages={','.join(self.languages)}" if self.languages else ""
        return (
            f"sir-jax data spoken_captions --images=DIR --captions=FILE{languages} "
            f"--voices={self.voices} --hold_out_pictures={self.hold_out_pictures} "
            f"--engines={','.join(self.engines)} --name={self.label}"
        )


def label_of(text: str) -> str:
    """Return a label made of a file's name.

    Example:
      >>> label_of("Mes photos (d'hiver)")
      'Mes-photos-d-hiver'
    """
    return "-".join(re.findall(r"[A-Za-z0-9]+", text))[:40].strip("-") or "captions"
