"""The alphabet of phones: letters of the IPA, the same for every language.

eSpeak NG writes every language that it speaks in the IPA. An encoder that spells what it hears in
these letters learns from a Greek prompt for the use of a French name.
"""

import collections
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

# Letters that Unicode would take apart into a plain letter and a mark.
_WHOLE = {"ç": "ç"}
# One letter under two code points.
_SAME = {"g": "ɡ", "ɫ": "l", "ᵻ": "ɪ", "ɚ": "ə", "ɝ": "ɜ"}


def split_ipa(text: str) -> list[str]:
    """Return the letters of a transcription, without stress, length, tone and other marks.

    Marks in brackets, by which eSpeak NG shows a change of language, are dropped.

    Example:
      >>> split_ipa("(en)fˈʊtbɔːl(fr) ʃɑ̃")
      ['f', 'ʊ', 't', 'b', 'ɔ', 'l', 'ʃ', 'ɑ']
    """
    letters, depth = [], 0
    for letter in unicodedata.normalize("NFC", text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth:
            continue
        plain = letter if letter in _WHOLE else unicodedata.normalize("NFD", letter)[0]
        if unicodedata.category(plain) in ("Ll", "Lo"):
            letters.append(_SAME.get(plain, plain))
    return letters


class Alphabet:
    """Phones and their numbers; 0 is CTC's blank.

    Attributes:
      phones: the letters in the order of their numbers, which begin at 1.
    """

    def __init__(self, phones: Sequence[str]):
        self.phones = tuple(phones)
        self._number = {phone: i + 1 for i, phone in enumerate(self.phones)}

    def __len__(self) -> int:
        return len(self.phones)

    @classmethod
    def of(cls, transcriptions: Iterable[Sequence[str]], least: int) -> "Alphabet":
        """Return the phones that occur at least `least` times, sorted."""
        counts = collections.Counter(phone for phones in transcriptions for phone in phones)
        return cls(sorted(phone for phone, count in counts.items() if count >= least))

    def numbers(self, phones: Sequence[str]) -> np.ndarray:
        """Return the numbers of phones, int32; phones outside of the alphabet are left out."""
        known = (self._number.get(phone, 0) for phone in phones)
        return np.array([number for number in known if number], np.int32)


def greedy_decode(classes: np.ndarray) -> np.ndarray:
    """Return what CTC's best path says: no repeats, then no blanks.

    Args:
      classes: the best class of each frame, int [T].

    Example:
      >>> greedy_decode(np.array([0, 3, 3, 0, 3, 1])).tolist()
      [3, 3, 1]
    """
    classes = np.asarray(classes)
    first = np.append(True, classes[1:] != classes[:-1])
    return classes[first & (classes > 0)]


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the least number of insertions, deletions and substitutions that make b of a.

    Example:
      >>> edit_distance([1, 2, 3], [2, 3, 4])
      2
    """
    a, b = np.asarray(a), np.asarray(b)
    at = np.arange(len(b) + 1)
    row = at
    for i, symbol in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        # An insertion depends on the entry to its left: the running minimum of entry minus place.
        row = np.minimum.accumulate(np.append(i, best) - at) + at
    return int(row[-1])
