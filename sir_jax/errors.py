"""The one exception that stands for a mistake a user can mend."""


class UserError(Exception):
    """Report a bad input; its message is one line naming the thing, the value and the remedy."""
