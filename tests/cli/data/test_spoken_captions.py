"""The options of `data spoken_captions`, and what it prints."""

from pathlib import Path

import pytest
from captioned import write_pictures

from sir_jax.cli.data.spoken_captions import choose, main, parse
from sir_jax.cli.main import main as sir_jax
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.preparation.captions import Captions
from sir_jax.data.preparation.prepare import Options


def test_options_choose_a_corpus():
    words = ["--images=photos", "--captions=~/My list.csv", "--languages=pt_br, Greek,fr"]
    source, config, options = choose(parse([*words, "--voices=12", "--hold-out-pictures=5"]))
    assert source == Captions(Path("photos"), Path("~/My list.csv").expanduser())
    languages = ("el", "fr", "pt-BR")
    assert config == CaptionsConfig(languages, 12, 5, ("espeak",), "My-list")
    assert options == Options()
    words = ["--images=a/photos", "--name=mine", "--engines=flite,espeak", "--encoding=cp1251"]
    source, config, options = choose(parse([*words, "--workers=3", "--allow_leaks"]))
    assert source == Captions(Path("a/photos"), None, "cp1251") and source.label == "photos"
    assert (config.label, config.engines) == ("mine", ("espeak", "flite"))
    assert options == Options(workers=3, allow_leaks=True)
    assert Captions(None, Path("a/coco_captions/2014/1.1.0")).label == "coco-captions"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--images is missing: give the folder of the pictures"),
        (["--images=no"], "images 'no': no such folder"),
        (["--images=.", "--captions=no.csv"], "captions 'no.csv': no such file"),
        (["--images=.", "--voices=0"], "voices is 0; give 1 to 40"),
        (["--images=.", "--workers=-1"], "workers is -1; choose 0 for every CPU core, or more"),
        (["--images=.", "--engines=flite"], "engines is 'flite' without 'espeak', which every"),
    ],
)
def test_wrong_options_are_one_line(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sir_jax(["data", "spoken_captions", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sir-jax data spoken_captions: {line}") and said.count("\n") == 1


def test_it_prints_counts_and_the_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", [f"{n}.png" for n in range(5)])
    lines = [f"{n}.png;σκύλος {n}" for n in range(5)]
    (tmp_path / "names.csv").write_text("\n".join(["image;el", *lines]))
    options = ["--images=photos", "--captions=names.csv", "--voices=2", "--workers=1"]
    assert main(options) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-5:-1] == [
        "train: 3 images, 6 captions, 0.00 h",
        "val: 1 images, 1 captions, 0.00 h",
        "test: 1 images, 1 captions, 0.00 h",
        "0 things left out of it",
    ]
    assert printed[-1].startswith("spoken_captions/names_all_v2_p10_espeak_")
    assert printed[-1].endswith("1.0.0") and " is ready after " in printed[-1]

    def full(*arguments):
        raise OSError(28, "No space left")

    monkeypatch.setattr("sir_jax.data.preparation.captions.looks_of", full)
    assert sir_jax(["data", "spoken_captions", *options]) == 2
    remedy = "[Errno 28] No space left; mend that and run the same command again to go on"
    assert capsys.readouterr().err.splitlines()[-1] == f"sir-jax data spoken_captions: {remedy}"


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("sir_jax.data.preparation.captions.prepare_captions", stop)
    assert main(["--images=."]) == 130
    assert "run the same command again to go on where it was" in capsys.readouterr().err
