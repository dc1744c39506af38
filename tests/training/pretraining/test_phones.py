"""The alphabet of phones and how errors in it are counted."""

import numpy as np
import pytest

from sir_jax.training.pretraining.phones import Alphabet, edit_distance, greedy_decode, split_ipa


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ɐ ɹˈɛd sˈɜːkəl", "ɐɹɛdsɜkəl"),
        ("t͡ʃˌa tʲ pʰ a˥", "tʃatpa"),  # tie, stress, palatal, aspirated, tone
        ("ɑ̃ ã ç", "ɑaç"),  # nasal vowels in both spellings of Unicode; the cedilla is a letter
        ("ɡ g", "ɡɡ"),
        ("(en)wˈiːk(fr)ɛnd", "wikɛnd"),
        ("12, -_:!", ""),
    ],
)
def test_letters_without_marks(text, letters):
    assert "".join(split_ipa(text)) == letters


def test_alphabet_has_what_is_frequent_and_leaves_out_the_rest():
    alphabet = Alphabet.of(["abba", "abc"], least=2)
    assert alphabet.phones == ("a", "b") and len(alphabet) == 2
    assert alphabet.numbers("cab").tolist() == [1, 2]


def test_greedy_decoding_drops_repeats_and_blanks():
    assert greedy_decode([3, 3, 0, 2, 0, 0]).tolist() == [3, 2]
    assert greedy_decode([3, 0, 3, 2, 2, 2]).tolist() == [3, 3, 2]
    assert greedy_decode([0, 0]).tolist() == []


def plain_distance(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            change = table[i - 1, j - 1] + (x != y)
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[-1, -1]


def test_edit_distance_is_that_of_the_plain_table():
    rng = np.random.default_rng(0)
    assert edit_distance([], []) == 0 and edit_distance([], [1, 2]) == 2
    for _ in range(200):
        a, b = (rng.integers(0, 4, rng.integers(0, 12)).tolist() for _ in range(2))
        assert edit_distance(a, b) == plain_distance(a, b)
