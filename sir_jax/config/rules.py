"""What a field is, and what its value may be: a rule finds a fault, and describes itself.

No rule changes a value: what a config says is what is hashed, compared and used.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any, Protocol

from sir_jax.errors import UserError


class Rule(Protocol):
    """What a field may hold."""

    def fault(self, value: Any) -> str:
        """Say what is wrong with a value, as the end of a sentence; '' where nothing is."""

    def __str__(self) -> str:
        """Describe the allowed values, for people."""


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`, or the one value `also`."""

    least: int
    most: int
    also: int | None = None

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        whole = _is_number(value, numbers.Integral)
        if whole and (self.least <= value <= self.most or value == self.also):
            return ""
        return f"must be {self}"

    def __str__(self) -> str:
        also = "" if self.also is None else f", or {self.also}"
        return f"a whole number from {_short(self.least)} to {_short(self.most)}{also}"


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number from `least` to `most`; `above` and `below` leave the ends out."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Tell whether a value is such a number."""
        if not _is_number(value, numbers.Real) or not math.isfinite(value):
            return False
        over = value > self.least if self.above else value >= self.least
        return over and (value < self.most if self.below else value <= self.most)

    @property
    def bounds(self) -> str:
        """Describe the interval."""
        first = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        joint = " and at most" if self.above else " to"
        return first + (f" to below {self.most:g}" if self.below else f"{joint} {self.most:g}")

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        if self.holds(value):
            return ""
        return f"must be {self.bounds if _is_number(value, numbers.Real) else self}"

    def __str__(self) -> str:
        return f"a number {self.bounds}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        return "" if value in self.words else f"is none of {', '.join(self.words)}"

    def __str__(self) -> str:
        return " or ".join(filter(None, (", ".join(self.words[:-1]), self.words[-1])))


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or false."""

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        return "" if isinstance(value, bool) else f"must be {self}"

    def __str__(self) -> str:
        return "true or false"


@dataclasses.dataclass(frozen=True)
class Text:
    """Any text."""

    what: str = "text"

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        return "" if isinstance(value, str) else f"must be {self}"

    def __str__(self) -> str:
        return self.what


@dataclasses.dataclass(frozen=True)
class Patterns:
    """Any number of regular expressions."""

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        if not _is_list(value) or not all(isinstance(item, str) for item in value):
            return f"must be {self}"
        for item in value:
            try:
                re.compile(f"(?:{item})(?:/.*)?")  # as `runtime.trees.path_matches` reads it
            except (re.error, OverflowError, RecursionError) as error:
                return f"holds {item!r}, which is no regular expression: {error}"
        return ""

    def __str__(self) -> str:
        return "regular expressions, each for the whole path of a parameter or its beginning"


@dataclasses.dataclass(frozen=True)
class Rates:
    """Any number of regular expressions, each with a factor: PATTERN=FACTOR."""

    factor: Real = Real(0, 1_000)

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        if not _is_list(value) or not all(isinstance(item, str) and "=" in item for item in value):
            return f"must be {self}"
        for item in value:
            try:
                _, factor = read_rate(item)
            except ValueError:
                return f"holds {item!r}, whose factor is no number"
            if not self.factor.holds(factor):
                return f"holds {item!r}, whose factor must be {self.factor.bounds}"
        return Patterns().fault([item.rpartition("=")[0] for item in value])

    def __str__(self) -> str:
        return f"PATTERN=FACTOR texts: {Patterns()}, and {self.factor}"


def read_rate(text: str) -> tuple[str, float]:
    """Read one item of `Rates`.

    Raises:
      ValueError: the factor is no number.

    Example:
      >>> read_rate("pool_.*=5")
      ('pool_.*', 5.0)
    """
    pattern, _, factor = text.rpartition("=")
    return pattern, float(factor)


@dataclasses.dataclass(frozen=True)
class Several:
    """At least one of what another rule allows.

    Attributes:
      rule: of each item.
      many: of these, for people.
      most: how many there may be.
      rising: whether each is larger than the one before.
    """

    rule: Whole | Choice
    many: str
    most: int
    rising: bool = False

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        fits = _is_list(value) and 0 < len(value) <= self.most
        fits = fits and not any(self.rule.fault(item) for item in value)
        if fits and not (self.rising and list(value) != sorted(set(value))):
            return ""
        return f"must be {self}"

    def __str__(self) -> str:
        rising = "rising " if self.rising else ""
        if isinstance(self.rule, Choice):
            return f"at least one of {', '.join(self.rule.words)}"
        first, last = _short(self.rule.least), _short(self.rule.most)
        return f"1 to {self.most} {rising}{self.many}, each from {first} to {last}"


@dataclasses.dataclass(frozen=True)
class Span:
    """The ends of an interval, of which a value is drawn."""

    rule: Real

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        fits = _is_list(value) and len(value) == 2 and all(map(self.rule.holds, value))
        return "" if fits and value[0] <= value[1] else f"must be {self}"

    def __str__(self) -> str:
        return f"(least, largest), rising, {self.rule.bounds}"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Where a stretch of steps begins and how long it is, or (0, 0) for none."""

    most: int

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        rule = Whole(0, self.most)
        fits = _is_list(value) and len(value) == 2 and not any(map(rule.fault, value))
        return "" if fits and (value[1] or not value[0]) else f"must be {self}"

    def __str__(self) -> str:
        return f"(start, steps), each from 0 to {_short(self.most)}, or (0, 0)"


@dataclasses.dataclass(frozen=True)
class Channels:
    """A number for each of red, green and blue."""

    rule: Real

    def fault(self, value: Any) -> str:
        """See `Rule`."""
        fits = _is_list(value) and len(value) == 3 and all(map(self.rule.holds, value))
        return "" if fits else f"must be {self}"

    def __str__(self) -> str:
        return f"three numbers, red, green and blue, each {self.rule.bounds}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(number: int) -> str:
    """Spell a whole number: powers of two as such where the digits say less."""
    power = number.bit_length()
    if number >= 2**31 - 1 and number == 2**power - 1:
        return f"2^{power} - 1"
    return f"{number:,}" if abs(number) >= 10_000 else str(number)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      name: dotted, e.g. 'data.batch_size'.
      default: what `base_config` sets; fields of an encoder's shape take their variant's value.
      rule: what it may be.
      doc: one line that says what it is for.
      free: whether a run may go on with another value: it changes where or how fast it runs, or
        what it writes down, never what it computes.
    """

    name: str
    default: Any
    rule: Rule
    doc: str
    free: bool = False

    def check(self, value: Any) -> None:
        """See that a value is allowed.

        Raises:
          UserError: naming the field, the value and what it may be.
        """
        if fault := self.rule.fault(value):
            joint = " " if fault.startswith(("is", "holds")) else ": "
            raise UserError(f"{self.name}={value!r}{joint}{fault}")


def rows(section: str, *fields: tuple) -> tuple[Field, ...]:
    """Return the fields of one section: name, default, rule, doc, and `free` where it is."""
    return tuple(Field(f"{section}.{name}", *rest) for name, *rest in fields)
