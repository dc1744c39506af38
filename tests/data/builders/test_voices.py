"""Miniatures of the packages of recordings, in their exact form."""

import numpy as np
import pytest
from packages import write_others, write_sound, write_stamps

from sir_jax.cli import main as cli
from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.voices.config import PARTS, VoicesConfig, is_of
from sir_jax.data.builders.voices.layout import fits, plan_voices, split_of, voices_layout
from sir_jax.data.builders.voices.sources import READERS, Recording
from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.audio import load_audio
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.data.preparation.verify import verify
from sir_jax.errors import UserError

CONFIG = VoicesConfig(hold_out=("fr",))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a folder with all packages."""
    folder = tmp_path_factory.mktemp("packages")
    write_stamps(folder)
    write_others(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(source, tmp_path_factory):
    """Return the corpus CONFIG of the packages."""
    root = tmp_path_factory.mktemp("data")
    options = Options(tolerance=0.5, workers=1)
    return prepare(voices_layout(CONFIG), CONFIG.name, Source(str(source)), root, options)


def read(part: str, folder) -> set[tuple[str, str, str]]:
    """Return (text, language, speaker) of each recording of a part."""
    return {(r.text, r.language, r.speaker) for r in READERS[part](folder)}


def test_prompts_are_read_with_their_texts(source):
    found = read("prompts", source)
    assert ("good day", "fr-CA", "fr-CA/June") in found
    assert {speaker for _, _, speaker in found} == {
        "en-US/Allison",
        "es-MX/Allison",
        "fr-CA/June",
        "it/Carlo",
        "it/Menardi",
        "ru/Ivr",
    }
    assert {text for text, _, speaker in found if speaker == "ru/Ivr"} == {"good day", "one", ""}
    # Her words are not those of the list.
    assert [text for text, _, speaker in found if speaker == "it/Menardi"] == [""]


def test_letters_and_dialogues_are_read(source):
    # Nothing of the language 'id' was recorded.
    assert read("letters", source) == {("A", "fr", "fr/letters"), ("ab", "fr", "fr/letters")}
    assert read("dialogues", source) == {
        ('Co "to" bylo?', "cs", "cs/big"),
        ("Wat was dat?", "nl", "nl/big"),
    }


def test_records_are_texts_and_french_is_held_out(source, capsys):
    plan = plan_voices(source, CONFIG)
    held = [(i.key, i.split, len(i.captions)) for i in plan.images]
    assert ("fr-CA: good day", "test", 1) in held
    french = {split for key, split, _ in held if key.startswith("fr")}
    assert french == {"test"} and {split for _, split, _ in held} >= {"train", "test"}
    assert all(not i.image and c.engine == "human" for i in plan.images for c in i.captions)
    ids = [c.caption_id for i in plan.images for c in i.captions]
    assert ids == list(range(len(ids)))
    assert not any("silence" in key or "beep" in key for key, _, _ in held)
    assert "it/Menardi: 1 recordings have no text, or say less; kept without it" in (
        capsys.readouterr().out
    )


def test_recording_too_short_for_its_text_is_kept_without_it(tmp_path):
    write_sound(tmp_path / "a.ogg", 300, seconds=0.2)
    assert fits(Recording("a.ogg", "la", "ca", "ca/x"), tmp_path)
    assert not fits(Recording("a.ogg", "La lletra A", "ca", "ca/x"), tmp_path)
    # Whoever decodes it will say what is wrong.
    assert fits(Recording("gone.ogg", "La lletra A", "ca", "ca/x"), tmp_path)


def test_shares_of_the_splits():
    splits = [split_of("it", f"it: {number}", ("fr",)) for number in range(4000)]
    shares = {split: splits.count(split) / 4000 for split in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.9, "val": 0.05, "test": 0.05}, abs=0.012)
    assert split_of("fr-CA", "fr-CA: 1", ("fr",)) == "test"
    assert is_of("fr-CA", ("fr",)) and not is_of("frr", ("fr",))


def test_names_of_stamps_are_synthesised_by_training_voices_alone(source):
    config = VoicesConfig(("stamps",), ("fr",), synthesised=20)
    spoken = [
        (image.split, caption)
        for image in plan_voices(source, config).images
        for caption in image.captions
        if caption.engine == "espeak"
    ]
    assert {split for split, _ in spoken} == {"train"}
    assert {c.language for _, c in spoken} <= {"en", "de", "zh-TW"}
    # English and German names, each by several voices.
    texts = [c.text for _, c in spoken]
    assert len(texts) > len(set(texts)) and len({c.audio for _, c in spoken}) == len(spoken)


def test_corpus_opens_and_is_whole(corpus):
    assert verify(corpus, full=True, notes=(notes := [])) == []
    assert notes == []
    again = open_corpus(corpus.name, corpus.directory.parents[2])
    test = again.splits["test"]
    records = {record.key: record for record in map(test.__getitem__, range(len(test)))}
    record = records["fr-CA: good day"]
    (caption,) = record.captions
    assert record.image == b"" and caption.speaker == "fr-CA/June" and caption.engine == "human"
    assert caption.key.endswith("fr_CA_f_June/hello.wav")
    wave = load_audio(caption.audio, "hello")
    assert np.argmax(np.abs(np.fft.rfft(wave, 16_000))) == pytest.approx(420, abs=2)
    # Its only recording is silent.
    assert "fr: Une vache." not in records and "fr: Un canard." in records


def test_what_needs_pictures_refuses_the_corpus(corpus, tmp_path, capsys):
    data = corpus.directory.parents[2]
    for words in (
        ["data", "show", corpus.name, f"--data_dir={data}"],
        [
            "train",
            "--config=configs/demo.py",
            f"--config.data.corpus={corpus.name}",
            f"--config.data.data_dir={data}",
            f"--workdir={tmp_path}",
        ],
    ):
        assert cli.main(words) != 0
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "without pictures" in x]
        assert f"{corpus.name} has recordings without pictures, for `sir-jax pretrain`" in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"parts": ("songs",)}, "part 'songs' is unknown; choose of stamps, prompts, letters,"),
        ({"parts": ()}, "no part is chosen; choose of stamps, prompts, letters, dialogues"),
        ({"hold_out": ("F",)}, "hold_out: 'F' is no language; give a code such as fr or pt-BR"),
        ({"synthesised": -1}, "synthesised is -1; give 0 to 1000000"),
        ({"parts": ("letters",), "synthesised": 5}, "synthesised clips say the stamps' names; ch"),
    ],
)
def test_wrong_options_are_one_line(options, line):
    with pytest.raises(UserError) as caught:
        VoicesConfig(**options)
    assert str(caught.value).startswith(line)


def test_name_encodes_the_options():
    config = VoicesConfig(("letters", "stamps"), ("fr", "es"), 7)
    assert config.name == "stamps.letters_out.es.fr_s7"
    assert VoicesConfig.from_name(config.name) == config
    assert VoicesConfig().name == f"{'.'.join(PARTS)}_out.none_s0"
    with pytest.raises(UserError, match="is no name of a voices corpus; one looks like"):
        VoicesConfig.from_name("letters")


def test_missing_package_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        plan_voices(tmp_path, VoicesConfig(("letters",)))
    assert str(caught.value) == (
        f"{tmp_path}: holds no package klettres-data; run: bash launch/get_voices.sh {tmp_path} "
        "klettres-data"
    )
