"""The parameters of a corpus of recordings, and the name that encodes them."""

import dataclasses
import re

from sir_jax.errors import UserError

# What can be in it, and the Debian packages that each needs.
PARTS = {
    "stamps": ("tuxpaint-stamps-default",),
    "prompts": (
        *(
            f"asterisk-core-sounds-{code}{kind}"
            for code in "en es fr it ru".split()
            for kind in ("", "-wav")
        ),
        "asterisk-prompt-it-menardi-wav",
    ),
    "letters": ("klettres-data",),
    "dialogues": ("fillets-ng-data", "fillets-ng-data-cs", "fillets-ng-data-nl"),
}
MAX_SYNTHESISED = 1_000_000
NONE = "none"
_NAME = re.compile(r"(?P<parts>[a-z.]+)_out\.(?P<out>[A-Za-z0-9.-]+)_s(?P<synthesised>\d+)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class VoicesConfig:
    """Parameters of one corpus; its content is a pure function of them and of the packages.

    Attributes:
      parts: some of PARTS.
      hold_out: languages (BCP 47) whose recordings are in the test split alone; 'fr' also means
        'fr-CA'.
      synthesised: number of clips that training voices of eSpeak NG speak: names of the stamps, in
        all languages that it speaks.
    """

    parts: tuple[str, ...] = tuple(PARTS)
    hold_out: tuple[str, ...] = ()
    synthesised: int = 0

    def __post_init__(self):
        for part in self.parts:
            if part not in PARTS:
                raise UserError(f"part {part!r} is unknown; choose of {', '.join(PARTS)}")
        if not self.parts:
            raise UserError(f"no part is chosen; choose of {', '.join(PARTS)}")
        for code in self.hold_out:
            check_language(code, "hold_out")
        if not 0 <= self.synthesised <= MAX_SYNTHESISED:
            raise UserError(f"synthesised is {self.synthesised}; give 0 to {MAX_SYNTHESISED}")
        if self.synthesised and "stamps" not in self.parts:
            raise UserError(
                "synthesised clips say the stamps' names; choose the part 'stamps', too"
            )
        ordered = tuple(part for part in PARTS if part in self.parts)
        object.__setattr__(self, "parts", ordered)
        object.__setattr__(self, "hold_out", tuple(sorted(set(self.hold_out))))

    @property
    def name(self) -> str:
        """Return the name that encodes all parameters."""
        out = ".".join(self.hold_out) or NONE
        return f"{'.'.join(self.parts)}_out.{out}_s{self.synthesised}"

    @classmethod
    def from_name(cls, name: str) -> "VoicesConfig":
        """Return the parameters that a name encodes.

        Raises:
          UserError: no corpus has such a name.
        """
        match = _NAME.fullmatch(name)
        config = match and cls(
            tuple(match["parts"].split(".")),
            () if match["out"] == NONE else tuple(match["out"].split(".")),
            int(match["synthesised"]),
        )
        if not config or config.name != name:
            raise UserError(
                f"{name!r} is no name of a voices corpus; one looks like {cls().name!r} (parts, "
                "languages held out, clips synthesised)"
            )
        return config

    def command(self) -> str:
        """Return the command that makes this corpus."""
        options = f"--parts={','.join(self.parts)}"
        if self.hold_out:
            options += f" --hold_out={','.join(self.hold_out)}"
        if self.synthesised:
            options += f" --synthesised={self.synthesised}"
        return f"sir-jax data prepare voices --source=DIR {options}"


def check_language(code: str, option: str) -> None:
    """See that a word can be a language.

    Raises:
      UserError: it cannot.
    """
    if not _LANGUAGE.fullmatch(code) or code == NONE:
        raise UserError(f"{option}: {code!r} is no language; give a code such as fr or pt-BR")


def is_of(language: str, codes: tuple[str, ...]) -> bool:
    """Tell whether a language is one of some, or a regional form of one.

    Example:
      >>> is_of("fr-CA", ("fr",)), is_of("fr", ("fr-CA",))
      (True, False)
    """
    return any(language == code or language.startswith(f"{code}-") for code in codes)
