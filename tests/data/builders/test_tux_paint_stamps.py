"""A miniature of the stamps' package, in its exact form, with every trap of the real one."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from packages import STAMPS, write_sound, write_stamps
from PIL import Image

from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.tux_paint_stamps.config import StampsConfig
from sir_jax.data.builders.tux_paint_stamps.groups import joined
from sir_jax.data.builders.tux_paint_stamps.layout import plan_stamps, stamps_layout
from sir_jax.data.builders.tux_paint_stamps.package import language_tag, read_stamps
from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.data.media.synthesis import voices_of
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.data.preparation.verify import verify
from sir_jax.errors import UserError

FRENCH = StampsConfig.of(["all", "fr:both", "de:synthesised"], hold_out=["fr"], voices=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a folder with the package."""
    folder = tmp_path_factory.mktemp("packages")
    write_stamps(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(source, tmp_path_factory):
    """Return the corpus FRENCH of the package."""
    root = tmp_path_factory.mktemp("data")
    layout = stamps_layout(FRENCH)
    return prepare(
        layout, FRENCH.name, Source(str(source)), root, Options(tolerance=0.9, workers=1)
    )


def spoken(plan) -> dict[str, set]:
    """Return by split the (stamp, language, engine) of each caption of a plan."""
    found: dict[str, set] = {}
    for image in plan.images:
        entries = {(image.key, c.language, c.engine) for c in image.captions}
        found.setdefault(image.split, set()).update(entries)
    return found


def test_package_is_read_with_its_odd_names(source):
    package = read_stamps(source)
    stamps = {stamp.name: stamp for stamp in package.stamps}
    held = {
        name: sorted((language, path.removeprefix(f"{STAMPS}/")) for language, path in s.recordings)
        for name, s in stamps.items()
    }
    assert held == {
        "animals/cow": [("es", "animals/cow_desc_es.ogg"), ("fr", "animals/cow_desc_fr.ogg")],
        "animals/duck": [
            ("en", "animals/duck_desc.ogg"),
            ("es", "animals/duck_desc_es.wav"),
            ("fr", "animals/duck_desc_fr.ogg"),
        ],
        "food/Pie": [("fr", "food/pie_desc_fr.ogg")],
        "symbols/7": [("fr", "symbols/7_fr.ogg"), ("zh-TW", "symbols/7_zh_tw.ogg")],
        "town/bomb": [("fr", "town/bomb_desc_fr.ogg")],
        "town/broken": [("fr", "town/broken_desc_fr.ogg")],
        "town/tank": [("fr", "town/tank_desc_fr.ogg.ogg")],
    }
    assert stamps["animals/cow"].texts == {"en": "A cow.", "fr": "Une vache.", "es": ""}
    assert stamps["food/Pie"].picture == f"{STAMPS}/food/Pie.png"
    assert [
        (language, p.path.removeprefix(f"{STAMPS}/"), p.reason) for language, p in package.problems
    ] == [
        ("", "town/tank_mirror.png", "no audio"),
        ("fr", "animals/wallaby_desc_fr.ogg", "no image"),
    ]


def test_locales_become_language_tags():
    found = [language_tag(x) for x in ("fr", "pt_BR", "zh_tw", "sr@latin", "ca@valencia")]
    assert found == ["fr", "pt-BR", "zh-TW", "sr-Latn", "ca-valencia"]


def test_language_held_out_is_heard_from_people_in_test_alone(source, capsys):
    plan = plan_stamps(source, FRENCH)
    found = spoken(plan)
    stamps = {"animals/cow", "animals/duck", "food/Pie", "symbols/7", "town/bomb", "town/broken"}
    stamps |= {"town/tank"}
    assert found["test"] == {(name, "fr", "human") for name in stamps}
    people = {entry for entry in found["train"] if entry[2] == "human"}
    assert people == {
        ("animals/cow", "es", "human"),
        ("animals/duck", "en", "human"),
        ("animals/duck", "es", "human"),
        ("symbols/7", "zh-TW", "human"),
    }
    german = {(name, "de", "espeak") for name in ("animals/duck", "food/Pie", "symbols/7")}
    machines = {(name, "fr", "espeak") for name in stamps} | german
    assert found["val"] == machines and found["train"] - people == machines
    takes = [
        c.speaker
        for i in plan.images
        if i.split == "train"
        for c in i.captions
        if c.engine == "espeak" and c.language == "fr" and i.key == "food/Pie"
    ]
    assert len(set(takes)) == 2
    said = capsys.readouterr().out.splitlines()
    assert "es: 2 recordings without a text, kept" in said
    assert "de: 4 pictures have no name to synthesise" in said


def test_voices_of_a_split_speak_in_no_other(source):
    config = StampsConfig.of(["fr:synthesised"], hold_out_pictures=40, voices=3)
    speakers: dict[str, set[str]] = {}
    for image in plan_stamps(source, config).images:
        speakers.setdefault(image.split, set()).update(c.speaker for c in image.captions)
    assert set(speakers) >= {"train", "test"}
    splits = list(speakers.values())
    assert sum(map(len, splits)) == len(set().union(*splits))


def test_pictures_held_out_are_in_one_split_with_all_of_their_copies(source, tmp_path):
    root = write_stamps(tmp_path)
    # The same word, and the same recording, under another name.
    Image.new("RGB", (8, 8), "blue").save(root / "animals/drake.png")
    (root / "animals/drake.txt").write_text("A drake.\nfr.utf8=Un canard.\n")
    copy = (root / "animals/duck_desc_fr.ogg").read_bytes()
    (root / "animals/drake_desc_fr.ogg").write_bytes(copy)
    for percent, count in ((1, 1), (30, 3), (80, 7)):
        plan = plan_stamps(tmp_path, StampsConfig.of(hold_out_pictures=percent))
        splits = {image.key: image.split for image in plan.images}
        assert len(plan.images) == len(splits) == 8
        assert splits["animals/drake"] == splits["animals/duck"]
        # Seven groups of eight pictures; one is a pair.
        assert count <= list(splits.values()).count("test") <= count + 1


def test_joined_follows_chains():
    marks = [("c", ["x"]), ("a", ["y"]), ("b", ["x", "y"]), ("d", [])]
    assert joined(marks) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_corpus_holds_pictures_and_what_people_and_machines_say(corpus):
    test = {record.key: record for record in map(corpus.splits["test"].__getitem__, range(4))}
    # The cow's recording is silent; two pictures cannot be drawn.
    assert set(test) == {"animals/duck", "food/Pie", "symbols/7", "town/tank"}
    duck = test["animals/duck"]
    (caption,) = duck.captions
    assert (caption.text, caption.language, caption.engine, caption.speaker) == (
        "Un canard.",
        "fr",
        "human",
        "fr/stamps",
    )
    wave = load_audio(caption.audio, "duck")
    # 200 Hz, both channels.
    assert np.argmax(np.abs(np.fft.rfft(wave, 16_000))) == pytest.approx(200, abs=2)
    assert load_image(duck.image).getpixel((0, 0)) == (255, 255, 255)
    train = [corpus.splits["train"][row] for row in range(len(corpus.splits["train"]))]
    cow = next(record for record in train if record.key == "animals/cow")
    with Image.open(io.BytesIO(cow.image)) as picture:
        assert picture.format == "PNG" and picture.size == (384, 196)
    assert load_image(cow.image).getpixel((192, 98)) == (255, 0, 0)
    assert {c.engine for c in cow.captions} == {"human", "espeak"}
    ids = {record.image_id for record in train} & {r.image_id for r in test.values()}
    assert not ids


def test_what_cannot_be_used_is_one_line_each(corpus):
    lines = (corpus.directory.parent / "quarantine.jsonl").read_text().splitlines()
    problems = {Path(p["path"]).name: p for p in map(json.loads, lines) if p["split"] == "test"}
    assert {name: (p["reason"], p["detail"]) for name, p in problems.items()} == {
        "cow_desc_fr.ogg": ("silent", "digitally silent"),
        "cow.svg": ("no audio", "no usable recording is left of it"),
        "broken.svg": (
            "undecodable image",
            "broken SVG (unclosed token: line 1, column 0); replace or remove it",
        ),
        "broken_desc_fr.ogg": ("no image", f"{STAMPS}/town/broken.svg is out"),
        "bomb.svg": (
            "too large",
            "SVG that would take too much to draw: its entity 'b' expands to others, or is long",
        ),
        "bomb_desc_fr.ogg": ("no image", f"{STAMPS}/town/bomb.svg is out"),
        "wallaby_desc_fr.ogg": ("no image", "the package has no picture of this name"),
    }


def test_pictures_in_several_splits_are_meant_and_recordings_are_not(corpus, capsys):
    assert verify(corpus, full=True, notes=(notes := [])) == []
    assert notes == ["5 pictures are in several splits, as meant: voices are held out"]
    assert not (corpus.directory.parent / "leaks.jsonl").exists()
    assert open_corpus(corpus.name, corpus.directory.parents[2]).splits.keys() == {
        "train",
        "val",
        "test",
    }


def test_all_leaves_to_people_what_the_synthesiser_does_not_speak(tmp_path, capsys):
    write_stamps(tmp_path)
    stamps = tmp_path / STAMPS
    write_sound(stamps / "animals/duck_desc_nn.ogg", 320)
    names = stamps / "animals/duck.txt"
    names.write_text(names.read_text() + "nn.utf8=Ei and.\n")
    plan = plan_stamps(tmp_path, StampsConfig.of(["all:both"], hold_out=["fr"]))
    assert "nn: by people alone, eSpeak NG does not speak it" in capsys.readouterr().out
    train = spoken(plan)["train"]
    assert {engine for name, code, engine in train if code == "nn"} == {"human"}
    assert ("animals/duck", "fr", "espeak") in train


def test_empty_name_cannot_be_synthesised(source):
    config = StampsConfig.of(["es:synthesised"], hold_out=["fr"])
    (problem,) = [p for p in plan_stamps(source, config).problems if p.reason == "bad metadata"]
    assert (problem.key, problem.detail) == ("animals/cow", "its name in es is empty")


def test_engines_take_turns_where_they_speak_the_language(source, monkeypatch):
    monkeypatch.setattr("sir_jax.data.builders.tux_paint_stamps.layout.require_engine", str)
    languages, engines = ["fr:synthesised", "zh-TW:synthesised"], ["mbrola", "espeak"]
    plan = plan_stamps(source, StampsConfig.of(languages, ["fr"], voices=20, engines=engines))
    heard = {voice.name: voice.split for voice in voices_of("mbrola", "fr")}
    takes: dict[tuple, list[str]] = {}
    for image in plan.images:
        for c in image.captions:
            takes.setdefault((c.language, image.split, image.key), []).append(c.engine)
            if c.engine == "mbrola":
                assert c.language == "fr" and heard[c.speaker] == image.split != "test"
    french, chinese = takes["fr", "train", "food/Pie"], takes["zh-TW", "train", "symbols/7"]
    # Seven voices of MBROLA say ten takes, by other rates and pitches.
    assert sorted(french) == 10 * ["espeak"] + 10 * ["mbrola"] and french[0] != french[1]
    assert chinese == 20 * ["espeak"]
    keys = [c.key for image in plan.images for c in image.captions]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"engines": ["mbrola"]}, "engines is 'mbrola'; give espeak, or it and some of espeak,"),
        ({"engines": ["espeak", "x"]}, "engines is 'espeak,x'; give espeak, or it and some of"),
        ({"languages": ["xx"]}, "languages: no recordings of people in 'xx'; there are some in en"),
        ({"hold_out": ["de"]}, "hold_out: no recordings of people in 'de'; there are some in en"),
        ({"languages": ["xx:both"]}, "languages: no recordings of people in 'xx'"),
        ({"languages": ["it:synthesised"]}, "languages: no names in 'it'; there are de, en, es"),
        ({"languages": ["fr:sung"]}, "languages: 'fr:sung'; after ':' give one of human, synth"),
        ({"hold_out_pictures": 0}, "nothing is held out; give hold_out a language, or"),
        ({"hold_out": ["all"]}, "hold_out: 'all' leaves no one to learn from; name the"),
        ({"hold_out": ["Fr!"]}, "hold_out: 'Fr!' is no language; give a code such as fr or"),
    ],
)
def test_wrong_options_are_one_line(source, options, line):
    with pytest.raises(UserError) as caught:
        plan_stamps(source, StampsConfig.of(**options))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_name_encodes_the_options():
    both = StampsConfig.of(["fr:synthesised"], ["fr"], engines=["mbrola", "espeak"])
    assert both.name == "h.none_s.fr_out.fr_p0_v6-espeak+mbrola"
    for config in (FRENCH, StampsConfig.of(["pt-BR:both"], [], 25), StampsConfig.of(), both):
        assert StampsConfig.from_name(config.name) == config
    assert FRENCH.name == "h.all_s.de.fr_out.fr_p0_v2"
    with pytest.raises(UserError, match="is no name of a tux_paint_stamps corpus"):
        StampsConfig.from_name("h.all_s.none_out.none")


def test_package_that_is_missing_or_half_unpacked_is_one_line(source, tmp_path):
    with pytest.raises(UserError) as caught:
        read_stamps(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds no package tuxpaint-stamps-default; run: bash launch/get_voices.sh "
        f"{tmp_path} tuxpaint-stamps-default"
    )
    (tmp_path / "tuxpaint-stamps-default/usr").mkdir(parents=True)
    with pytest.raises(UserError, match="half unpacked, it has no usr/share/tuxpaint/stamps; rem"):
        read_stamps(tmp_path)
