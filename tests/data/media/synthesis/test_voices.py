"""Which voices there are; each belongs to one split for good."""

import pytest

from sir_jax.data.media.synthesis import ENGINES, engine, espeak, missing_engines, voices_of
from sir_jax.data.media.synthesis.espeak_voices import ENGLISH, VARIANTS, languages
from sir_jax.errors import UserError


def test_held_out_voices_are_in_no_other_split():
    assert {v.name: v.split for v in voices_of("flite")} == {
        "kal16": "train",
        "slt": "train",
        "rms": "train",
        "kal": "train",
        "awb": "test",
    }
    assert [(v.name, v.split) for v in voices_of("piper", "en_US")] == [
        ("en_US-joe-medium", "test")
    ]
    assert voices_of("piper", "en", "train") == ()
    assert [v.name for v in voices_of("flite", "en", "test")] == ["awb"]


@pytest.mark.parametrize("language, code", [("fr_FR", "fr"), ("pt_BR", "pt-br"), ("zh", "cmn")])
def test_variants_keep_their_split_in_every_language(language, code):
    split_of = {variant: split for split, variants in VARIANTS.items() for variant in variants}
    voices = voices_of("espeak", language)
    assert {voice.language for voice in voices} == {code} and len(voices) > 50
    for voice in voices:
        accent, variant = voice.name.split("+")
        assert accent == code and voice.split == split_of[variant]
        assert variant not in languages()[code].without
    for split in VARIANTS:
        assert set(voices_of("espeak", language, split)) == {v for v in voices if v.split == split}


def test_english_has_its_own_table():
    assert voices_of("espeak", "en") == ENGLISH
    assert {v.accent for v in voices_of("espeak", "en-us")} == {"en-us"}
    assert {v.accent for v in voices_of("espeak", "en-us-nyc")} == {"en-us-nyc"}


def test_table_has_every_language_of_the_library():
    assert {code: known.name for code, known in languages().items()} == espeak().languages
    for code, meant in espeak().codes.items():
        assert code == meant or code in languages()[meant].codes
    used = [code for code, known in languages().items() if not known.left_out]
    assert len(used) > 100 and {"fr", "es", "ca", "bg", "be", "el", "da", "ro", "ru"} < set(used)


def test_what_is_not_there_is_one_line():
    for arguments, message in [
        (("espeak", "tlh"), "eSpeak NG does not speak the language 'tlh'; it speaks af, am,"),
        (("espeak", "kl"), r"no voices of Greenlandic \(kl\) here: the library crashes"),
        (("espeak", "fo"), r"no voices of Faroese \(fo\) here: no dictionary"),
        (("flite", "fr"), "flite does not speak the language 'fr'; it speaks en"),
        (
            ("festival", "en"),
            "no speech synthesiser 'festival'; choose among espeak, flite, mbrola, piper",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            voices_of(*arguments)
    with pytest.raises(UserError, match="no speech synthesiser 'festival'; choose among espeak"):
        engine("festival")


def test_every_engine_says_what_it_is():
    here = [name for name in ENGINES if name not in missing_engines()]
    assert "espeak" in here
    assert [engine(name).name for name in here] == here
    assert engine("espeak") is engine("espeak")
