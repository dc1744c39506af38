"""How the table of eSpeak NG's languages chooses."""

import pytest

from sir_jax.data.media.synthesis.espeak_voices import LANGUAGE_TABLE, VARIANTS
from sir_jax.data.media.synthesis.language_table import COLUMNS, broken, reason, try_language

GOOD = {"foreign": 0, "different": 29, "phonemes": 25}


@pytest.mark.parametrize(
    "code, family, found, complaints, why",
    [
        ("fr", "roa", GOOD, "", ""),
        ("fr", "roa", {}, "", "the library crashes"),
        ("fo", "gmq", GOOD, "Can't read dictionary file: 'fo_dict'", "no dictionary"),
        ("piqd", "art", GOOD, "", "constructed"),
        ("eo", "art", GOOD, "", ""),
        ("fa-latn", "ira", GOOD, "", "second spelling"),
        ("xx", "", GOOD | {"foreign": 15}, "", "says numbers as another language"),
        ("xx", "", GOOD | {"foreign": 14}, "", ""),
        ("xx", "", GOOD | {"different": 14}, "", "says numbers alike"),
        ("xx", "", GOOD | {"phonemes": 11}, "", "only 11 phonemes"),
    ],
)
def test_languages_are_left_out_by_rules(code, family, found, complaints, why):
    assert reason(code, family, found, complaints) == why


def test_variants_far_from_the_median_are_broken():
    lengths = {"m1": 100, "f1": 110, "m2": 90, "silent": 0, "hasty": 49, "slow": 201, "last": 200}
    assert broken(lengths) == ["silent", "hasty", "slow"]


def test_a_language_is_tried():
    found = try_language("fr")
    assert found["foreign"] == 0 and found["different"] == 29
    assert 20 < found["phonemes"] < 35
    assert sorted(found["lengths"]) == sorted(v for some in VARIANTS.values() for v in some)
    assert reason("fr", "roa", found, "") == "" and broken(found["lengths"]) == []


def test_table_says_how_it_was_made():
    lines = LANGUAGE_TABLE.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Made by `python -m sir_jax.data.media.synthesis.language_table`")
    assert lines[1].split("\t") == list(COLUMNS)
    assert len(lines) == 2 + 141
