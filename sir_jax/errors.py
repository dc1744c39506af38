"""The exceptions that stand for a mistake a user can mend."""


class UserError(Exception):
    """Report a bad input; its message is one line naming the thing, the value and the remedy."""


class BadMedia(UserError):
    """Report one sound or picture that cannot be used, and in a word why.

    Args:
      message: the line for people.
      fault: the word for programs: "missing", "undecodable", "truncated", "no samples",
        "too long", "too large" or "wrong rate".
    """

    def __init__(self, message: str, fault: str = "undecodable"):
        # Only the message: unpickling calls the class with `args`, then restores the rest.
        super().__init__(message)
        self.fault = fault
