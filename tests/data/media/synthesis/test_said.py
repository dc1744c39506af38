"""A typed text is said by voices of several engines; what cannot be said is refused in one line."""

import json
import subprocess

import numpy as np
import pytest

import sir_jax
from sir_jax.data.media.synthesis import Voice, espeak_voices, missing_engines, said
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.data.media.synthesis.piper import folder_voices
from sir_jax.errors import UserError

speaks = pytest.mark.skipif("espeak" in missing_engines(), reason="eSpeak NG is not installed")
INSTALL = "run: pip install 'sir_jax[synth]'"

# A speaker that is killed by one voice and refuses another.
SPEAKER = """
import json, os, sys
from sir_jax.data.media.synthesis.speaker import REPLY

for voice in json.load(sys.stdin)["voices"]:
    name = voice["name"]
    if name == "dies":
        os.kill(os.getpid(), 9)
    body = b"no such voice" if name == "refuses" else bytes([voice["rate"], 0] * 2)
    sys.stdout.buffer.write(REPLY.pack(name != "refuses", len(body)) + body)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def everything(monkeypatch):
    """Pretend that every engine is installed, and no voice of one's own."""
    monkeypatch.setattr(said, "require_engine", lambda name: None)
    monkeypatch.setattr(said, "require_piper", lambda: None)
    monkeypatch.setattr(said, "find_voice", lambda name: None)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


@pytest.fixture
def nothing(monkeypatch):
    """Pretend that no engine is installed."""

    def missing(name):
        raise UserError(f"the speech synthesiser {name} is not installed; {INSTALL}")

    monkeypatch.setattr(said, "require_engine", missing)
    monkeypatch.setattr(said, "require_piper", lambda: missing("piper-tts"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


@speaks
def test_the_same_words_are_the_same_query():
    first, second = (
        sir_jax.say(text, "en_GB.UTF-8", voices=3, engines=["espeak"])
        for text in ("a red  star", "\ta red\nstar\ud83d ")
    )
    assert (first.text, first.language) == (second.text, second.language) == ("a red star", "en")
    assert len({clip.tobytes() for clip in first.clips}) == len(first.voices) == 3
    for one, two, wave in zip(first.clips, second.clips, first.waves, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.int16 and 8_000 < len(one) < 24_000
        assert wave.dtype == np.float32 and 0.2 < np.abs(wave).max() <= 0.9


@speaks
def test_every_script_is_said():
    for text, language, code in [("سمكة حمراء", "ar", "ar"), ("红色的鱼 7", "Chinese", "cmn")]:
        query = sir_jax.say(text, language, voices=1)
        assert query.language == code and len(query.clips[0]) > 8_000


def names(*arguments):
    return [f"{voice.engine} {voice.name}" for voice in said.choose_voices(*arguments)]


def test_engines_take_turns_and_voices_of_training_come_first(everything):
    assert names("en", "a red fish") == [
        *("espeak en-us+m1", "flite kal16", "piper en_US-joe-medium"),
        *("espeak en+f1", "flite slt", "espeak en-gb-scotland+Alex"),
    ]
    many = said.choose_voices("fr", "un poisson rouge", 24)
    assert len(many) == 24 and {(v.engine, v.language) for v in many} == {("espeak", "fr")}
    assert all(voice.split == "train" for voice in many)
    # flite would leave out every letter.
    assert {name.split()[0] for name in names("en", "красная рыба", 24)} == {"espeak", "piper"}
    assert names("en", "a café", 24, ["flite"]) == [
        f"flite {name}" for name in ("kal16", "slt", "rms", "kal", "awb")
    ]


def test_a_piper_voice_of_ones_own(nothing, tmp_path, monkeypatch):
    folder = tmp_path / "piper"
    folder.mkdir()
    for name, described in {
        "fr_FR-mine-low": json.dumps({"espeak": {"voice": "fr"}}),
        "broken": "{",
        "other": json.dumps({"espeak": "fr"}),
    }.items():
        (folder / f"{name}.onnx").touch()
        (folder / f"{name}.onnx.json").write_text(described)
    (folder / "alone.onnx").touch()
    assert folder_voices() == {}
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert folder_voices() == {"fr_FR-mine-low": "fr"}
    assert said.spoken_languages() == {}  # piper itself is missing
    monkeypatch.setattr(said, "require_piper", lambda: None)
    monkeypatch.setattr(said, "find_voice", lambda name: nothing_there())
    assert said.spoken_languages() == {"fr": "French (France)"}
    assert names("fr-be", "un poisson") == ["piper fr_FR-mine-low"]
    with pytest.raises(UserError, match=r"^nothing here speaks German \(de\): the speech synth"):
        said.choose_voices("de", "ein Fisch")


def nothing_there():
    raise UserError("the voice is not there")


def test_languages_that_can_be_typed(everything):
    languages = said.spoken_languages()
    assert languages["en"] == "English" and languages["pt-br"] == "Portuguese (Brazil)"
    assert list(languages.values()) == sorted(languages.values()) and len(languages) > 100
    assert not {"tlh", "qya", "kl"} & languages.keys()
    left_out = {code for code, entry in espeak_voices.languages().items() if entry.left_out}
    assert left_out and not left_out & languages.keys()


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("", "en", "the text is empty; give words to be said"),
        (" \n\0", "en", "the text is empty; give words to be said"),
        ("a" * 100_000, "en", "the text has 100,000 letters; give at most 500"),
        ("🙂🐟", "en", "the text '🙂🐟' has no letter and no digit; give words"),
        ("?" * 90, "en", f"the text '{'?' * 39}…' has no letter and no digit; give words"),
        (7, "en", "the text is a int; give words to be said, as a string"),
        ("a", "frensh", "no synthesiser speaks the language 'frensh'; did you mean French (fr)?"),
        ("a", "xx", "no synthesiser speaks the language 'xx'; give one of af, am, an, ar, as, az"),
        ("a", "", "no synthesiser speaks the language ''; give one of af, am"),
        ("a", "x" * 99, f"no synthesiser speaks the language '{'x' * 39}…'; give one of af"),
        ("a", "kl", "nothing here speaks Greenlandic (kl): the library crashes"),
        ("a", "Quenya", "nothing here speaks Quenya (qya): constructed"),
    ],
)
def test_what_cannot_be_said(everything, text, language, message):
    with pytest.raises(UserError) as refusal:
        sir_jax.say(text, language)
    line = str(refusal.value)
    assert line.startswith(message) and "\n" not in line


def test_a_missing_engine_is_named_with_its_remedy(nothing):
    with pytest.raises(UserError) as refusal:
        sir_jax.say("a red fish")
    assert str(refusal.value) == (
        "nothing here speaks English (en): the speech synthesiser espeak is not installed; "
        f"{INSTALL}"
    )
    assert said.spoken_languages() == {}


def test_arguments_that_cannot_be(everything):
    for voices in (0, 25, 2.5):
        with pytest.raises(UserError, match=f"voices is {voices}; give a whole number from 1 to"):
            sir_jax.say("a", voices=voices)
    with pytest.raises(UserError, match="flite says Latin letters alone"):
        sir_jax.say("рыба", engines=["flite"])
    with pytest.raises(UserError, match=r"speaks French \(fr\): not flite nor piper"):
        sir_jax.say("poisson", "fr", engines=["flite", "piper"])


def test_an_unknown_engine():
    with pytest.raises(UserError, match="no speech synthesiser 'festival'; choose among espeak"):
        sir_jax.say("a", engines=["festival"])


@pytest.fixture
def speaking(everything, monkeypatch):
    """Return a function that gives who says a text, and the samples, of voices by their names."""

    def speaking(*who):
        voices = [Voice("espeak", name, "en", "train", 1 + n) for n, name in enumerate(who)]
        monkeypatch.setattr(said, "choose_voices", lambda *_: voices)
        query = sir_jax.say("a red fish")
        return [(v.name, clip.tolist()) for v, clip in zip(query.voices, query.clips, strict=True)]

    return speaking


def test_who_refuses_or_ends_the_process_is_left_out(speaking, tmp_path, monkeypatch):
    (tmp_path / "fake_speaker.py").write_text(SPEAKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(said, "SPEAKER", "fake_speaker")
    assert speaking("a", "refuses", "dies", "b") == [("a", [1, 1]), ("b", [4, 4])]


def test_who_is_late_is_left_out(speaking, monkeypatch):
    def late(*_, timeout, **__):
        assert 30 < timeout <= 40
        # One reply, and the first bytes of the next.
        output = said.REPLY.pack(True, 4) + bytes([7, 0, 7, 0]) + said.REPLY.pack(True, 9) + b"x"
        raise subprocess.TimeoutExpired("speaker", timeout, output)

    monkeypatch.setattr(subprocess, "run", late)
    monkeypatch.setattr(said.time, "monotonic", iter([0.0, 0.0, 41.0]).__next__)
    assert speaking("a", "hangs", "b") == [("a", [7, 7])]


def test_no_voice_that_can_say_it(speaking, monkeypatch):
    monkeypatch.setattr(said, "_ask", lambda *_: [(False, b"no such\nvoice")])
    with pytest.raises(UserError, match=r"no voice can say 'a red fish' in en \(no such voice\);"):
        speaking("refuses")
    monkeypatch.setattr(said, "_ask", lambda *_: [])
    with pytest.raises(UserError, match=r"\(espeak stopped at it\); give other words"):
        speaking("dies", "dies")
