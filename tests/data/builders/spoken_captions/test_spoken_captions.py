"""Captions come to their pictures, pictures to splits, captions to voices; nothing is lost."""

import collections
import dataclasses

import numpy as np
import pytest
from captioned import write_pictures

from sir_jax.data.builders.recordings import Problem
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig, label_of
from sir_jax.data.builders.spoken_captions.gather import MOST_CAPTIONS, gather
from sir_jax.data.builders.spoken_captions.looks import Look
from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.data.builders.spoken_captions.plan import (
    MOST_SPOKEN,
    identity,
    most_spoken,
    plan_captions,
    said_everywhere,
)
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Row
from sir_jax.data.builders.spoken_captions.words import fault, said
from sir_jax.data.media.synthesis import voices_of
from sir_jax.errors import UserError

NAMES = ["Dog.jpg", "cafe\u0301.png", "a/cat.png", "b/cat.png", "b/hen.webp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("images"), NAMES)
    (folder / "notes.pdf").write_text("x")
    (folder / "photo").write_text("no suffix")
    return folder


@pytest.fixture(scope="module")
def pictures(folder):
    return Pictures(folder)


def many(count: int, folder) -> Pictures:
    """Return pictures of which only names are there."""
    found = Pictures(folder)
    found.files = {f"{n:04d}.png": None for n in range(count)}
    return found


def stated(*rows: tuple) -> Found:
    """Return a source of (picture, text, language, split) rows."""
    return Found([Row(f"list.csv:{n}", *row) for n, row in enumerate(rows, 2)])


def looks(count: int, same=()) -> list[Look]:
    """Return looks of pictures; those of each group are equal."""
    numbers = list(range(count))
    for group in same:
        for number in group:
            numbers[number] = group[0]
    return [
        Look(
            bytes([n % 251, n // 251] * 8),
            int(np.random.default_rng(n).integers(1 << 62)),
            np.random.default_rng(n).integers(0, 255, (16, 16, 3), dtype=np.uint8),
        )
        for n in numbers
    ]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Dog.jpg", "Dog.jpg"),
        ("./b/../a/cat.png", "a/cat.png"),
        ("a\\cat.png", "a/cat.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("dog.JPG", "Dog.jpg"),
        ("Dog.jpg#4", "Dog.jpg"),
        ("val2014/hen.webp", "b/hen.webp"),
        ("hen", "b/hen.webp"),
        (" Dog.jpg ", "Dog.jpg"),
        ("photo", "photo"),
        ("hen.png", "b/hen.webp"),
        ("../../images/Dog.png", "Dog.jpg"),
        ("hens.png", ""),
        ("../secret", ""),
        ("", ""),
        ("\0", ""),
    ],
)
def test_a_picture_is_found_by_how_lists_spell_it(pictures, written, name):
    assert pictures.find(written) == (name, "" if name else "no such picture")


def test_paths_from_the_root_and_ambiguous_names(pictures, folder):
    assert pictures.find(f"{folder}/a/cat.png") == ("a/cat.png", "")
    assert pictures.find("cat.png")[1] == "several pictures have this name; write its folder, too"
    assert pictures.others() == {".pdf": 1, "": 1}
    with pytest.raises(UserError, match="images 'no': no such folder"):
        Pictures(type(folder)("no"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a dog \U0001f436\u200d\U0001f43e runs\ufe0f", "a dog runs\ufe0f"),
        ("30° at 2\ufe0f\u20e3 o'clock ☀️", "30° at o'clock"),
        ("cafe\u0301\r\nnoir\t!", "caf\u00e9 noir !"),
        ("\ufeffone\0two\ud800", "one two"),
        ("क्\u200dष मी\u200cन", "क्\u200dष मी\u200cन"),
    ],
)
def test_what_is_said_has_no_emoji_and_no_codes(text, words):
    assert said(text) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" ", ("bad metadata", "its caption is empty")),
        ("🐶", ("bad metadata", "its caption is '🐶', emoji alone: nothing can be said")),
        ("...", ("bad metadata", "its caption is '...', no letter and no digit: nothing can be ")),
        ("a" * 1001, ("too long", "its caption has 1,001 letters, at most 1,000")),
        ("猫", ("", "")),
    ],
)
def test_what_cannot_be_said_has_a_reason(text, found):
    reason, detail = fault(text, said(text))
    assert reason == found[0] and detail.startswith(found[1])


def test_every_caption_is_kept_or_listed(pictures):
    found = stated(
        ("Dog.jpg", "un chien 🐶", "fr"),
        ("dog.jpg", "un\nchien", "fr"),  # the same once more
        ("Dog.jpg", "un chien", "fr-CA"),
        ("gone.jpg", "perdu", "fr", "val"),
        ("cat.png", "un chat", "fr"),
        ("b/cat.png", "", "fr"),
        ("b/hen.webp", "une poule", "fr", "dev"),
        ("b/hen.webp", "la poule", "fr", "train"),
        ("b/hen.webp", "das Huhn", "de"),
        ("a/cat.png", "le chat", "fr", "unsupervised"),
    )
    found.problems.append(Problem("list.csv:1", "bad metadata", "3 fields"))
    gathered = gather(pictures, found, ["fr"])
    assert {p.name: (p.split, p.captions) for p in gathered.pictures} == {
        "Dog.jpg": ("", [("fr", "un chien"), ("fr-CA", "un chien")]),
        "b/hen.webp": ("val", [("fr", "une poule")]),
    }
    assert [(p.path, p.reason, p.split) for p in gathered.problems] == [
        ("list.csv:1", "bad metadata", ""),
        ("list.csv:3", "repeated", ""),
        ("list.csv:5", "missing image", "val"),
        ("list.csv:6", "missing image", ""),
        ("list.csv:7", "bad metadata", ""),
        ("list.csv:9", "bad metadata", "train"),
        ("list.csv:11", "bad metadata", ""),
        ("a/cat.png", "no caption", ""),
        ("b/cat.png", "no caption", ""),
        ("cafe\u0301.png", "no caption", ""),
    ]
    details = [p.detail for p in gathered.problems]
    assert details[5] == "b/hen.webp is in split 'val' by an earlier caption"
    assert details[6] == "split 'unsupervised' is none of train, val, test"
    assert details[7] == "its captions are left out" and details[9] == "no caption names it"
    assert gathered.notes == [
        "captions in de, which is not asked for: 1",
        "captions with emoji, which are not said: 1",
        "other files beside the pictures: 1 .pdf, 1 no suffix",
    ]
    kept = sum(len(p.captions) for p in gathered.pictures)
    assert kept + 7 - 1 + 1 == len(found.rows)  # the line that is no row, the one not asked for


@pytest.mark.parametrize(
    ("rows", "chosen", "line"),
    [
        ([("Dog.jpg", "a dog")], [], "list.csv:2: states no language, and none is given; give one"),
        (
            [("Dog.jpg", "a dog")],
            ["en", "fr"],
            "list.csv:2: states no language, and languages=en,fr names 2; give one language, or",
        ),
        ([("Dog.jpg", "a dog", "en")], ["fr"], "languages: no caption is in fr; there are some in"),
        ([("x.jpg", "a dog", "en")], [], "(list.csv:2: x.jpg: no such picture); see that images"),
        ([], [], "(there is no caption); see that images and captions belong together"),
    ],
)
def test_nothing_to_say_is_one_line(pictures, rows, chosen, line):
    with pytest.raises(UserError) as caught:
        gather(pictures, stated(*rows), chosen)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_captions_without_a_language_are_in_the_only_one(pictures):
    (dog,) = gather(pictures, stated(("Dog.jpg", "hund")), ["de"]).pictures
    assert dog.captions == [("de", "hund")]


def test_a_picture_has_no_more_captions_than_a_record_may_hold(pictures):
    rows = [("Dog.jpg", f"dog {n}", "en") for n in range(10_000)]
    gathered = gather(pictures, stated(*rows, ("hen", "a hen", "en")), [])
    dog, hen = gathered.pictures
    assert [len(dog.captions), len(hen.captions)] == [MOST_CAPTIONS, 1]
    left_out = [p for p in gathered.problems if p.reason == "too many"]
    assert len(left_out) == 10_000 - MOST_CAPTIONS
    assert left_out[0].path == f"list.csv:{MOST_CAPTIONS + 2}"
    plan = plan_captions(CaptionsConfig(voices=12, hold_out_pictures=0), gathered, looks(2))
    counts = {(i.key, i.split): len(i.captions) for i in plan.images}
    # Without pictures that are held out, each is in every split; in training it is said often.
    assert counts == {
        ("Dog.jpg", "train"): MOST_SPOKEN,
        ("b/hen.webp", "train"): 12,
        **{("Dog.jpg", split): MOST_CAPTIONS for split in ("val", "test")},
        **{("b/hen.webp", split): 1 for split in ("val", "test")},
    }
    assert most_spoken(plan, 1) == MOST_SPOKEN and most_spoken(plan, 2) == MOST_SPOKEN + 12


def test_splits_part_pictures_and_not_look_alikes(folder):
    rows = [(f"{n:04d}.png", f"dog {n}", "en") for n in range(100)]
    same = [(0, 50), (7, 8, 9, 10), (20, 99)]
    gathered = gather(many(100, folder), stated(*rows), [])
    plan = plan_captions(CaptionsConfig(hold_out_pictures=20), gathered, looks(100, same))
    splits = {image.key: image.split for image in plan.images}
    counts = collections.Counter(splits.values())
    assert len(splits) == 100 and 20 <= counts["test"] <= 23 and 10 <= counts["val"] <= 13
    for group in same:
        assert len({splits[f"{n:04d}.png"] for n in group}) == 1
    assert "look-alikes: 8 pictures in 3 groups, each group in one split" in gathered.notes


def test_without_pictures_held_out_each_is_said_by_the_voices_of_every_split(folder):
    rows = [(f"{n:04d}.png", f"dog {n}", "en") for n in range(6)]
    gathered = gather(many(6, folder), stated(*rows), [])
    config = CaptionsConfig(voices=3, engines=("espeak", "flite"), hold_out_pictures=0)
    plan = plan_captions(config, gathered, looks(6))
    assert said_everywhere(plan)
    found: dict[str, list] = {}
    for image in plan.images:
        found.setdefault(image.split, []).append(image)
    said = {split: [len(i.captions) for i in images] for split, images in found.items()}
    one = [1] * 6
    assert said == {"train": [3] * 6, "val": one, "test": one, "test_flite": one}
    keys = {split: [i.key for i in images] for split, images in found.items()}
    assert keys["train"] == keys["val"] == keys["test"] == keys["test_flite"]
    voices = [{c.speaker for i in images for c in i.captions} for images in found.values()]
    assert sum(map(len, voices)) == len(set().union(*voices))
    assert len({image.image_id for image in plan.images}) == 24
    # A split that captions state is not said again.
    stated_rows = [(*row, "test" if n == 0 else "train") for n, row in enumerate(rows)]
    gathered = gather(many(6, folder), stated(*stated_rows), [])
    plan = plan_captions(CaptionsConfig(hold_out_pictures=0), gathered, looks(6))
    assert not said_everywhere(plan) and len(plan.images) == 6


def test_stated_splits_stay_and_missing_ones_are_taken_out_of_train(folder):
    rows = [(f"{n:04d}.png", f"dog {n}", "en", "test" if n < 5 else "train") for n in range(40)]
    gathered = gather(many(40, folder), stated(*rows), [])
    plan = plan_captions(CaptionsConfig(hold_out_pictures=10), gathered, looks(40, [(4, 30)]))
    splits = {image.key: image.split for image in plan.images}
    assert [name for name, split in splits.items() if split == "test"] == [
        f"{n:04d}.png" for n in range(5)
    ]
    # 5 % of 40; a look-alike of a test picture that is stated to be in train is not moved.
    assert list(splits.values()).count("val") == 2 and splits["0030.png"] == "train"
    assert gathered.notes[-1].endswith("each group in one split, but for 1 that the captions part")


def test_look_alikes_follow_one_that_is_held_out(folder):
    rows = [(f"{n:04d}.png", f"dog {n}", "en", "test" if n == 7 else "") for n in range(30)]
    gathered = gather(many(30, folder), stated(*rows), [])
    plan = plan_captions(CaptionsConfig(hold_out_pictures=0), gathered, looks(30, [(3, 7, 20)]))
    splits = {image.key: image.split for image in plan.images}
    assert [name for name, split in splits.items() if split == "test"] == [
        "0003.png",
        "0007.png",
        "0020.png",
    ]


def test_voices_of_a_split_speak_in_no_other(folder):
    rows = [(f"{n:04d}.png", f"{w} {n}", c) for n in range(40) for w, c in DOGS]
    gathered = gather(many(40, folder), stated(*rows), [])
    config = CaptionsConfig(voices=5, engines=("piper", "flite", "espeak"), hold_out_pictures=20)
    plan = plan_captions(config, gathered, looks(40))
    speakers: dict[str, set] = {}
    for image in plan.images:
        count = {"train": 15, "val": 3, "test": 3}.get(image.split, 1)
        assert len(image.captions) == count
        assert len({(c.language, c.speaker) for c in image.captions}) == count
        for caption in image.captions:
            speakers.setdefault(image.split, set()).add((caption.engine, caption.speaker))
    assert speakers["test_flite"] == {("flite", "awb")}
    assert speakers["test_piper"] == {("piper", "en_US-joe-medium")}
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values()))
    flites = {name for engine, name in speakers["train"] if engine == "flite"}
    assert flites == {v.name for v in voices_of("flite", "en", "train")}
    english = [c for i in plan.images if i.split == "train" for c in i.captions if c.text[0] == "d"]
    share = sum(c.engine == "flite" for c in english) / len(english)
    assert 0.4 < share < 0.6
    said_by = {i.key: i.captions[0].text for i in plan.images if i.split == "test"}
    again = {i.key: i.captions[0].text for i in plan.images if i.split == "test_flite"}
    assert said_by == again
    everything = [c for image in plan.images for c in image.captions]
    for field in ("caption_id", "key", "audio"):
        assert len({getattr(c, field) for c in everything}) == len(everything)
    assert len({image.image_id for image in plan.images}) == len(plan.images)


DOGS = (("dog", "en"), ("chien", "fr"), ("собака", "ru"))


def test_a_language_that_nobody_speaks(pictures):
    dogs = [("Dog.jpg", "a dog", "en"), ("Dog.jpg", "targh", "tlh")]
    found = stated(*dogs, ("hen", "Huhn", "xx"), ("hen", "hen", "en"))
    gathered = gather(pictures, found, [])
    plan = plan_captions(CaptionsConfig(voices=1, hold_out_pictures=0), gathered, looks(2))
    trained = [image for image in plan.images if image.split == "train"]
    assert [[c.text for c in image.captions] for image in trained] == [["a dog"], ["hen"]]
    silent = [(p.path, p.detail, p.split) for p in plan.problems if p.reason == "no voice"]
    assert silent == [
        ("Dog.jpg", "eSpeak NG does not speak the language 'tlh': 'targh'", "train"),
        ("b/hen.webp", "eSpeak NG does not speak the language 'xx': 'Huhn'", "train"),
    ]
    with pytest.raises(UserError, match="languages: eSpeak NG does not speak the language 'tlh'"):
        plan_captions(CaptionsConfig(("en", "tlh")), gathered, looks(2))
    only = gather(pictures, stated(("hen", "Huhn", "xx")), [])
    with pytest.raises(UserError, match=r"no caption can be said, such as that of b/hen.webp: eSp"):
        plan_captions(CaptionsConfig(), only, looks(1))
    two = gather(pictures, stated(("hen", "hen", "en"), ("Dog.jpg", "a dog", "en")), [])
    with pytest.raises(UserError, match="is 10, which leaves none of 2 pictures for training"):
        plan_captions(CaptionsConfig(), two, looks(2))


def test_identity_is_of_captions_options_and_bytes(folder):
    rows = [(f"{n:04d}.png", f"dog {n}", "en") for n in range(12)]

    def named(rows=rows, changed=None, **options):
        gathered = gather(many(12, folder), stated(*rows), [])
        found = looks(len(gathered.pictures))
        if changed is not None:
            found[changed] = found[changed]._replace(digest=b"x" * 16)
        plan = plan_captions(CaptionsConfig(**options), gathered, found)
        return identity(plan, [p.name for p in gathered.pictures], found)

    assert named() == named() == named(list(reversed(rows)))
    others = [
        named(voices=3),
        named(hold_out_pictures=50),
        named(changed=3),
        named([*rows[:-1], ("0011.png", "dog", "en")]),
        named([*rows[:-1], ("0011.png", "dog 11", "en-GB")]),
        named(rows[:-1]),
    ]
    assert len({named(), *others}) == 7 and all(len(name) == 12 for name in others)


def test_name_encodes_the_options():
    config = CaptionsConfig(("pt-BR", "fr"), 3, 20, ("flite", "espeak"), "my-photos", "0" * 12)
    assert config.name == "my-photos_fr.pt-BR_v3_p20_espeak.flite_000000000000"
    for each in (config, CaptionsConfig(digest="abcdef012345")):
        assert CaptionsConfig.from_name(each.name) == each
    assert config.command() == (
        "sir-jax data spoken_captions --images=DIR --captions=FILE --languages=fr,pt-BR "
        "--voices=3 --hold_out_pictures=20 --engines=espeak,flite --name=my-photos"
    )
    with pytest.raises(UserError, match="is no name of a spoken_captions corpus; one looks like"):
        CaptionsConfig.from_name("mine")
    assert label_of("Été à Rome (2)") == "t-Rome-2" and label_of("Фото") == "captions"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"voices": 41}, "voices is 41; give 1 to 40"),
        ({"hold_out_pictures": 61}, "hold_out_pictures is 61; give 0 to 60 percent"),
        ({"engines": ("festival",)}, "there is no speech synthesiser 'festival'; choose among"),
        ({"engines": ("flite",)}, "engines is 'flite' without 'espeak', which every corpus needs"),
        ({"label": "a_b"}, "name 'a_b': use letters and digits, with '-' between them"),
        ({"label": "../x"}, "name '../x': use letters and digits, with '-' between them"),
        ({"languages": ("Fr!",)}, "languages: 'Fr!' is no language; give a code such as fr or"),
        (
            {"languages": tuple(f"en-{n:05d}" for n in range(30))},
            "the corpus' name would have 305 letters; name fewer languages, or none for all",
        ),
    ],
)
def test_wrong_options_are_one_line(options, line):
    with pytest.raises(UserError) as caught:
        CaptionsConfig(**options)
    assert str(caught.value).startswith(line)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CaptionsConfig().voices = 3
