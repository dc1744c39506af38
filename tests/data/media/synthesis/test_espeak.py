"""eSpeak NG: voices of many languages, rate and pitch, phonemes."""

import sys

import pytest
from pitch import fundamental

from sir_jax.data.media.synthesis import SAMPLE_RATE, Espeak, espeak, phonemes_of
from sir_jax.errors import UserError

TEXT = "a small orange star at the top left on a dotted background"


def test_rate_and_pitch_are_heard():
    slow = espeak().speak(TEXT, "en-us+m2", 150, 50)
    fast = espeak().speak(TEXT, "en-us+m2", 200, 50)
    assert 1.2 < len(slow) / len(fast) < 1.5
    low = espeak().speak(TEXT, "en-us+m2", 170, 30)
    high = espeak().speak(TEXT, "en-us+m2", 170, 70)
    assert fundamental(high) > 1.15 * fundamental(low)
    assert fundamental(espeak().speak(TEXT, "en-us+f2", 170, 50)) > 150
    assert 70 < fundamental(low) < 130


@pytest.mark.parametrize("voice", ["xx+nobody", "xx+m2", "en-us+nobody", "nobody"])
def test_unknown_voice_is_refused(voice):
    with pytest.raises(UserError, match=f"no voice '.*{voice.partition('+')[0]}"):
        espeak().speak(TEXT, voice, 170, 50)


def test_missing_synthesiser_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[synth\]'"):
        Espeak()


@pytest.mark.parametrize(
    "code, language",
    [
        ("en", "en"),
        ("en-gb", "en"),
        ("en_US", "en-us"),
        ("fr_FR.UTF-8", "fr"),
        ("de-AT", "de"),
        ("zh_TW", "cmn"),
        ("no", "nb"),
        ("pt_BR", "pt-br"),
        ("es_MX", "es-419"),
        ("sr@latin", "sr"),
    ],
)
def test_language_by_any_of_its_codes(code, language):
    assert espeak().language(code) == language
    assert language in espeak().languages


def test_languages_are_all_of_the_library():
    assert len(espeak().languages) == 141
    assert espeak().languages["yue-latn-jyutping"] == "Chinese (Cantonese, latin as Jyutping)"


def test_unknown_language_is_refused():
    for call in (espeak().phonemes, lambda text, code: espeak().speak(text, "m2", language=code)):
        with pytest.raises(UserError, match="does not speak the language 'tlh'; it speaks af, am,"):
            call("qapla", "tlh")


def test_variant_speaks_the_language():
    french = espeak().speak("le chat est sur la table", "f2", language="fr")
    same = espeak().speak("le chat est sur la table", "fr+f2")
    assert abs(len(french) - len(same)) < 1600
    assert fundamental(french) == pytest.approx(fundamental(same), rel=0.05)
    assert 1 < len(french) / SAMPLE_RATE < 2.5


@pytest.mark.parametrize(
    "text, language, phones",
    [
        ("a red star", "en-us", "ɐ ɹ ɛ d s t ɑːɹ"),
        ("a red star", "en", "ɐ ɹ ɛ d s t ɑː"),
        ("le chat, n'est-ce pas?", "fr", "l ə ʃ a n ɛ s p a"),
        ("Привет world", "ru", "p rʲ i vʲ e t w ɜː l d"),  # a foreign word
        ("新闻", "cmn", "ɕ i n w uə n"),  # two tones
        ("", "de", ""),
        ("...", "de", ""),
    ],
)
def test_phonemes(text, language, phones):
    assert espeak().phonemes(text, language) == phones.split()


def test_transcription_keeps_stress_and_words():
    assert espeak().ipa("a red star, two", "en") == "ɐ ɹ_ˈɛ_d s_t_ˈɑː t_ˈuː"


def test_phonemes_of_many_texts_by_fresh_processes():
    texts = [("eins zwei", "de"), ("one", "en"), ("deux", "fr")]
    assert phonemes_of(texts, workers=2, chunk=2) == [
        espeak().phonemes(text, language) for text, language in texts
    ]
    with pytest.raises(UserError, match="does not speak the language 'xx'"):
        phonemes_of([("one", "xx")])


def test_text_that_crashes_the_library_is_named():
    texts = [("illu", "kl"), ("0", "kl"), ("one", "en")]
    with pytest.raises(UserError, match="eSpeak NG crashes at the text '0' in the language 'kl'"):
        phonemes_of(texts)
