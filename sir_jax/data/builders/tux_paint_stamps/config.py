"""The parameters of a corpus of stamps, and the name that encodes them."""

import dataclasses
import re
from collections.abc import Sequence

from sir_jax.data.builders.recordings import HUMAN
from sir_jax.data.builders.spoken import ESPEAK
from sir_jax.data.builders.voices.config import NONE, check_language
from sir_jax.data.media.synthesis.engines import ENGINES
from sir_jax.errors import UserError

ALL = "all"  # the languages that people speak in the package
KINDS = (HUMAN, "synthesised", "both")
MAX_VOICES = 40
# Percent of the pictures that are held out where no language is.
HELD_OUT_PICTURES = 10
_NAME = re.compile(
    r"h\.(?P<human>[A-Za-z0-9.-]+)_s\.(?P<synthesised>[A-Za-z0-9.-]+)_out\.(?P<hold_out>[A-Za-z0-9.-]+)"
    r"_p(?P<pictures>\d+)_v(?P<voices>\d+)(-(?P<engines>[a-z+]+))?"
)


@dataclasses.dataclass(frozen=True)
class StampsConfig:
    """Parameters of one corpus; its content is a pure function of them and of the package.

    Attributes:
      human: languages (BCP 47) of which the recordings of people are taken, or ('all',).
      synthesised: languages in which a synthesiser says the names, or ('all',).
      hold_out: languages whose recordings of people are in the test split, alone and nowhere else.
      hold_out_pictures: percent of the pictures that are in the test split and in no other.
      voices: synthesised captions of each picture and language in training.
      engines: the synthesisers that speak, eSpeak NG among them; where a language has no voice of
        another, eSpeak NG speaks alone.
    """

    human: tuple[str, ...] = (ALL,)
    synthesised: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    hold_out_pictures: int = HELD_OUT_PICTURES
    voices: int = 6
    engines: tuple[str, ...] = (ESPEAK,)

    def __post_init__(self):
        for field in ("human", "synthesised", "hold_out"):
            codes = tuple(sorted(set(getattr(self, field))))
            if field == "hold_out" and ALL in codes:
                raise UserError("hold_out: 'all' leaves no one to learn from; name the languages")
            for code in codes:
                check_language(code, field if field == "hold_out" else "languages")
            object.__setattr__(self, field, (ALL,) if ALL in codes else codes)
        if not 0 <= self.hold_out_pictures <= 90:
            raise UserError(f"hold_out_pictures is {self.hold_out_pictures}; give 0 to 90 percent")
        if not 1 <= self.voices <= MAX_VOICES:
            raise UserError(f"voices is {self.voices}; give 1 to {MAX_VOICES}")
        unknown = [name for name in self.engines if name not in ENGINES]
        if unknown or ESPEAK not in self.engines:
            raise UserError(
                f"engines is {','.join(self.engines)!r}; give {ESPEAK}, or it and some of "
                f"{', '.join(ENGINES)}"
            )
        ordered = tuple(name for name in ENGINES if name in self.engines)
        object.__setattr__(self, "engines", ordered)
        if not (self.human or self.synthesised):
            raise UserError("no language is chosen for training; give some, such as fr:synthesised")
        if not (self.hold_out or self.hold_out_pictures):
            raise UserError("nothing is held out; give hold_out a language, or hold_out_pictures")

    @classmethod
    def of(
        cls,
        languages: Sequence[str] = (ALL,),
        hold_out: Sequence[str] = (),
        hold_out_pictures: int | None = None,
        voices: int = 6,
        engines: Sequence[str] = (ESPEAK,),
    ) -> "StampsConfig":
        """Return the parameters that the options of `data prepare` say.

        Args:
          languages: each a code, 'code:human', 'code:synthesised' or 'code:both'; 'all' is a code.
          hold_out: see the attribute.
          hold_out_pictures: None for 10 where no language is held out, else 0.
          voices: see the attribute.
          engines: see the attribute.

        Raises:
          UserError: one cannot be read.
        """
        chosen: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for word in languages:
            code, _, kind = word.partition(":")
            if (kind or HUMAN) not in KINDS:
                raise UserError(f"languages: {word!r}; after ':' give one of {', '.join(KINDS)}")
            chosen[kind or HUMAN].append(code)
        if hold_out_pictures is None:
            hold_out_pictures = 0 if hold_out else HELD_OUT_PICTURES
        both = chosen["both"]
        human, synthesised = chosen[HUMAN] + both, chosen["synthesised"] + both
        languages = tuple(human), tuple(synthesised), tuple(hold_out)
        return cls(*languages, hold_out_pictures, voices, tuple(engines))

    @property
    def name(self) -> str:
        """Return the name that encodes all parameters."""
        human, synthesised, out = (
            ".".join(codes) or NONE for codes in (self.human, self.synthesised, self.hold_out)
        )
        # Names of corpora by eSpeak NG alone are older than the other engines.
        engines = "" if self.engines == (ESPEAK,) else f"-{'+'.join(self.engines)}"
        numbers = f"p{self.hold_out_pictures}_v{self.voices}{engines}"
        return f"h.{human}_s.{synthesised}_out.{out}_{numbers}"

    @classmethod
    def from_name(cls, name: str) -> "StampsConfig":
        """Return the parameters that a name encodes.

        Raises:
          UserError: no corpus has such a name.
        """
        match = _NAME.fullmatch(name)
        config = match and cls(
            *(
                () if match[field] == NONE else tuple(match[field].split("."))
                for field in ("human", "synthesised", "hold_out")
            ),
            int(match["pictures"]),
            int(match["voices"]),
            tuple((match["engines"] or ESPEAK).split("+")),
        )
        if not config or config.name != name:
            raise UserError(
                f"{name!r} is no name of a tux_paint_stamps corpus; one looks like {cls().name!r} "
                "(languages by people and by synthesis, held out, percent of pictures, voices and "
                "whose)"
            )
        return config

    def command(self) -> str:
        """Return the command that makes this corpus."""
        return f"sir-jax data prepare tux_paint_stamps/{self.name} --source=DIR"
