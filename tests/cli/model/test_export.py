"""From a run to a release, and what `info` says of it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import sir_jax
from sir_jax.cli import main as cli
from sir_jax.errors import UserError
from sir_jax.evaluation.card import read_evaluations, run_stages, write_card
from sir_jax.inference import release
from sir_jax.inference.release import CONFIG
from sir_jax.inference.retriever import Retriever
from sir_jax.inference.score import Score, write_score


@pytest.fixture(scope="module")
def evaluated(matching_workdir, tmp_path_factory):
    """Return a workdir with the file that `sir-jax evaluate` leaves there."""
    workdir = tmp_path_factory.mktemp("evaluated") / "mine"
    shutil.copytree(matching_workdir, workdir)
    flat = {"captions_per_image_min": 2, "captions_per_image_max": 2}
    for side in ("s2i", "i2s"):
        flat |= {f"{side}_queries": 8, f"{side}_gallery": 4}
        flat |= {f"{side}_median_rank": 1.0, f"{side}_chance_median_rank": 2.5}
    for name in ("s2i", "i2s", "mean"):
        for k in (1, 5, 10):
            flat |= {f"{name}_r{k}": 0.8125, f"{name}_chance_r{k}": 0.25}
    flat |= {"mean_r": 0.8125, "mean_chance_r": 0.25}
    corpus = "spoken_scenes/one-i16-d4-t4-c2-v64-p32-s7"
    content = {
        "corpus": corpus,
        "trained_on": corpus,
        "split": "test",
        "which": "best",
        "fold_images": 0,
        "metrics": flat,
    }
    (workdir / "eval_test.json").write_text(json.dumps(content))
    return workdir


@pytest.fixture(scope="module")
def released(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "release"
    assert (
        cli.main(
            [
                "export",
                f"--workdir={evaluated}",
                f"--out={out}",
                "--name=small-one",
                "--licence=CC0-1.0",
            ]
        )
        == 0
    )
    return out


def test_a_release_gives_the_runs_vectors(evaluated, released, query, folder):
    run, model = Retriever.load(evaluated), sir_jax.load(released)
    assert model.name == "small-one" and model.fingerprint == run.fingerprint
    pictures = [folder / "b.png", folder / "a.jpg"]
    for one in ("encode_image", "match"):
        items = (pictures,) if one == "encode_image" else ([query], pictures)
        np.testing.assert_array_equal(getattr(model, one)(*items), getattr(run, one)(*items))


def test_the_card_says_what_was_done(released):
    card = (released / "README.md").read_text()
    plain = json.loads((released / CONFIG).read_text())
    for said in (
        "# small-one",
        "spoken_scenes/one-i16-d4-t4-c2-v64-p32-s7",
        "81.2",
        "CC0-1.0",
        "1 SIC + 1 SIM + 1 CMD",
        "6 steps of 8 pairs",
        plain["fingerprint"],
        "sir-jax evaluate --workdir=.. --split=test",
        "sir-jax export --workdir=",
        "no denoising head",
    ):
        assert said in card, said


def test_the_card_tells_of_the_run_before(evaluated, released, tmp_path):
    first = release.find(evaluated)
    second = first.cfg.copy_and_resolve_references()
    second.init.update(speech="", image="", model=str(evaluated))
    second.data.corpus = "spoken_scenes/among-i16-d4-t4-c2-v64-p32-s7"
    found = run_stages(second)
    assert [cfg.data.corpus for cfg in found] == [first.cfg.data.corpus, second.data.corpus]
    done = read_evaluations(evaluated)
    done[0]["trained_on"] = second.data.corpus
    card = write_card("two", found, first.params, done, "sir-jax export", "", "float32")
    assert "### Stage 1" in card and "- started: all from stage 1" in card
    assert f"- corpus: `{second.data.corpus}`, its train split" in card
    # Of a corpus that the first run was trained on, nothing is zero-shot.
    assert f"--corpus={first.cfg.data.corpus}" in card and "zero-shot" not in card
    assert "zero-shot" in write_card("one", [second], first.params, done, "", "", "float32")
    noted = write_card("two", found, first.params, done, "", "", "float32", "## Data\n\nMine.\n")
    assert "## Data\n\nMine.\n\n## Measured" in noted
    # A release's own card tells how it was made; what has moved away cannot be told of.
    for source in (released, tmp_path / "moved"):
        second.init.model = str(source)
        assert run_stages(second) == [second]


def test_the_card_names_what_re_ranks(evaluated):
    found = release.find(evaluated)
    params = {name: x for name, x in found.params.items() if name not in ("fusion", "match_head")}
    late = params | {"late": {"scale": np.zeros(())}}
    for have, said in (
        (found.params, ("; a fusion encoder re-ranks", "the fusion encoder and its matching head")),
        (late, ("; late interaction re-ranks", "the projections of late interaction")),
        (params, ()),
    ):
        card = write_card("mine", [found.cfg], have, [], "", "", "float32")
        assert card.count("re-ranks") == bool(said) and all(one in card for one in said)


def test_a_run_without_evaluation_says_so(matching_workdir, tmp_path):
    assert cli.main(["export", f"--workdir={matching_workdir}", f"--out={tmp_path / 'x'}"]) == 0
    card = (tmp_path / "x" / "README.md").read_text()
    assert "Nothing: `sir-jax evaluate --workdir=..` was not run" in card
    assert "licence of the weights: not stated" in card


def test_a_release_may_leave_probabilities_out(matching_workdir, tmp_path):
    workdir = shutil.copytree(matching_workdir, tmp_path / "run")
    score = Score(0.5, 1.0, (1.0, 0.5, 0.0), {"split": "val"}, 0.4)
    write_score(workdir, release.find(workdir).params, score)
    for option, calibration in (("--probabilities", (1.0, 0.5, 0.0)), ("--no-probabilities", None)):
        out = tmp_path / option
        assert cli.main(["export", f"--workdir={workdir}", f"--out={out}", option]) == 0
        expected = dataclasses.replace(score, calibration=calibration)
        assert sir_jax.load(out).score == expected


def test_info(released, capsys):
    assert cli.main(["info", f"--model={released}", "--json", "--verify"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "small-one" and found["can_match"] and found["width"] == 32
    assert found["longest_window_seconds"] == 3.0 and found["parameters"] > 10_000
    assert cli.main(["info", f"--model={released}"]) == 0
    assert "can match               True" in capsys.readouterr().out


def test_verify_finds_changed_weights(released, tmp_path, capsys):
    shutil.copytree(released, tmp_path / "x")
    weights = tmp_path / "x" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    assert cli.main(["info", f"--model={tmp_path / 'x'}", "--verify"]) == 2
    assert "not to its fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name=a/b"], "--name 'a/b': use letters"),
        (["--out=."], "exists already"),
        (["--workdir=none"], "is no folder"),
    ],
)
def test_options_that_cannot_be_used(evaluated, tmp_path, options, said, capsys):
    given = dict(workdir=evaluated, out=tmp_path / "y") | dict(
        option.removeprefix("--").split("=") for option in options
    )
    assert cli.main(["export", *(f"--{k}={v}" for k, v in given.items())]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_a_release_is_not_exported_again(released, tmp_path, capsys):
    assert cli.main(["export", f"--model={released}", f"--out={tmp_path / 'z'}"]) == 2
    assert "is a release already" in capsys.readouterr().err


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = sir_jax.lod
    with pytest.raises(UserError, match="is no folder"):
        sir_jax.load("lod")
