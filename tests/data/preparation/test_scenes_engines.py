"""The verb `data spoken_scenes` with several engines, and with some missing."""

import io
import shutil
import sys

import pytest
import soundfile

from sir_jax.cli import main as cli
from sir_jax.cli.data.spoken_scenes import parse
from sir_jax.data.builders.spoken_scenes import SceneConfig
from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.synthesis import missing_engines
from sir_jax.data.media.synthesis.flite import FOLDER_VARIABLE
from sir_jax.data.preparation.verify import verify

# Those of the machine.
ENGINES = ",".join(e for e in ("espeak", "flite", "piper") if e not in missing_engines())
SIZES = ["--train_images=4", "--val_images=1", "--test_images=2", "--captions=1", "--image_size=32"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    assert cli.main(["data", "spoken_scenes", *SIZES, f"--data_dir={root}", "--workers=1"]) == 0
    config = SceneConfig("one", 4, 1, 2, captions=1, image_size=32, engines=ENGINES)
    return open_corpus(f"spoken_scenes/{config.name}", root), config


def test_default_is_every_engine_of_the_machine(corpus):
    corpus, config = corpus
    assert list(corpus.splits) == list(config.splits)
    for name, engine in config.splits.items():
        for record in (corpus.splits[name][row] for row in range(len(corpus.splits[name]))):
            (caption,) = record.captions
            assert caption.language == "en" and caption.engine in ([engine] if engine else ENGINES)
            wave, rate = soundfile.read(io.BytesIO(caption.audio), dtype="int16")
            assert rate == 16_000 and 1.5 < len(wave) / rate < 7


def test_further_test_splits_show_the_same_pictures(corpus):
    corpus, config = corpus
    test = {record.image_id: record for record in map(corpus.splits["test"].__getitem__, range(2))}
    for name in list(config.splits)[3:]:
        assert corpus.split(name).index["image_id"].tolist() == sorted(
            corpus.split(name).index["image_id"]
        )
        for record in (corpus.split(name)[row] for row in range(2)):
            twin = test[config.picture_of(record.image_id)]
            assert record.image == twin.image
            assert record.captions[0].text == twin.captions[0].text
            assert record.captions[0].audio != twin.captions[0].audio


def test_their_pictures_are_no_leak(corpus):
    corpus, config = corpus
    notes = []
    assert verify(corpus, full=True, notes=notes) == []
    meant = "2 pictures are in several splits, as meant: voices are held out"
    assert notes == ([meant] if len(config.splits) > 3 else [])


@pytest.fixture
def nothing_but_espeak(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "piper", None)


def test_missing_engines_are_named_in_one_line(nothing_but_espeak, capsys):
    assert parse(["--engines=all"])[0] == SceneConfig()
    capsys.readouterr()
    config, _ = parse([])
    assert config == SceneConfig()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("without flite: the speech synthesiser flite is not on PATH, and ")
    assert "; without piper: the speech synthesiser piper-tts is not installed; run: pip" in err
    assert parse(["--engines=espeak"])[0] == SceneConfig()
    assert capsys.readouterr().err == ""


def test_missing_engine_that_was_asked_for_is_one_line(nothing_but_espeak, capsys, tmp_path):
    more = ["--engines=espeak,flite", f"--data_dir={tmp_path}"]
    assert cli.main(["data", "spoken_scenes", *SIZES, *more]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "flite is not on PATH" in err and "run: apt-get install" in err
    assert not list(tmp_path.rglob("*.chunk"))


def test_unknown_engine_is_one_line(capsys):
    assert cli.main(["data", "spoken_scenes", "--engines=espeak,festival"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "engines has 'festival'" in err
