"""What of a caption is said: without emoji, control codes and line breaks."""

import re
import unicodedata

# A minute of speech.
MOST_LETTERS = 1000
_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff]"
    # What changes or joins the emoji before it.
    "[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*|[0-9#*]\ufe0f?\u20e3"
)
# Code points that stand for nothing that is said.
_SILENT = ("Cc", "Cs", "Cn", "Co")


def said(text: str) -> str:
    """Return what a voice says of a caption, in one line and in Unicode's composed form.

    Example:
      >>> said("A dog 🐶\\nruns!")
      'A dog runs!'
    """
    if not text.isascii():
        # A byte order mark may stand where two files were joined.
        text = unicodedata.normalize("NFC", _EMOJI.sub(" ", text)).replace("\ufeff", " ")
    if not text.isprintable():
        silent = (unicodedata.category(letter) in _SILENT for letter in text)
        text = "".join(" " if no else letter for no, letter in zip(silent, text, strict=True))
    return " ".join(text.split())


def fault(text: str, words: str) -> tuple[str, str]:
    """Return why a caption cannot be said, as (reason, detail); two times '' if it can.

    Args:
      text: the caption.
      words: what `said` makes of it.
    """
    if not text.strip():
        return "bad metadata", "its caption is empty"
    if not any(letter.isalnum() for letter in words):
        what = "emoji alone" if _EMOJI.search(text) else "no letter and no digit"
        return "bad metadata", f"its caption is {text.strip()[:40]!r}, {what}: nothing can be said"
    if len(words) > MOST_LETTERS:
        return "too long", f"its caption has {len(words):,} letters, at most {MOST_LETTERS:,}"
    return "", ""


def has_emoji(text: str) -> bool:
    """Tell whether a caption has what is not said."""
    return bool(_EMOJI.search(text))
