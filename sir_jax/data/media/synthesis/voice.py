"""A voice of any engine, and codes of languages."""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker.

    Attributes:
      engine: name of the synthesiser, a key of ENGINES.
      name: the engine's name of the voice; unique within the engine.
      language: the language that it speaks, as eSpeak NG spells it, such as 'en' or 'pt-br'.
      split: the split that the voice speaks in, for good.
      rate: average speed in words per minute; 170 is the own speed of voices but eSpeak NG's.
      pitch: average pitch, 0 to 99; 50 is the voice's own.
    """

    engine: str
    name: str
    language: str
    split: str
    rate: int = 170
    pitch: int = 50

    @property
    def accent(self) -> str:
        """Return the accent: the key of ACCENTS of an English voice of eSpeak NG."""
        return self.name.partition("+")[0]


def resolve(code: str, codes: Mapping[str, str]) -> str:
    """Return what a code of a language stands for in a table; '' if it is not there.

    Args:
      code: BCP 47 or a POSIX locale. One that is not in the table is cut at its last hyphen:
        'de_AT.UTF-8' is 'de-at', which is 'de'.
      codes: the table, its keys in lower case and with hyphens.
    """
    tried = re.sub(r"[.@].*", "", code).replace("_", "-").lower()
    while tried and tried not in codes:
        tried = tried.rpartition("-")[0]
    return codes.get(tried, "")
