"""The exceptions that stand for a mistake a user can mend, and what their messages share."""

from collections.abc import Sequence


class UserError(Exception):
    """Report a bad input; its message is one line naming the thing, the value and the remedy."""


class BadMedia(UserError):
    """Report one sound or picture that cannot be used, and in a word why.

    Args:
      message: the line for people.
      fault: the word for programs: "missing", "undecodable", "truncated", "no samples",
        "not supported", "too long", "too large" or "wrong rate".
    """

    def __init__(self, message: str, fault: str = "undecodable"):
        # Only the message: unpickling calls the class with `args`, then restores the rest.
        super().__init__(message)
        self.fault = fault


def first_few(phrases: Sequence[str], shown: int = 3, joint: str = "; ") -> str:
    """Join the first few phrases, and say how many more there are.

    >>> first_few(["a is missing", "b is unknown", "c is new"], shown=2)
    'a is missing; b is unknown and 1 more'
    """
    more = f" and {len(phrases) - shown:,} more" if len(phrases) > shown else ""
    return joint.join(phrases[:shown]) + more
