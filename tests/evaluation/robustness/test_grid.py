"""The grid on a split in memory: values, once encoded, resumed, deterministic; table and figure."""

import numpy as np
import pytest
from spoken_split import SpokenSplit

from sir_jax.cli import main as cli
from sir_jax.errors import UserError
from sir_jax.evaluation.intervals import paired_difference
from sir_jax.evaluation.ranking import retrieval_metrics
from sir_jax.evaluation.robustness import grid
from sir_jax.evaluation.robustness.conditions import choose
from sir_jax.evaluation.robustness.figure import draw, save
from sir_jax.evaluation.robustness.grid import run_grid
from sir_jax.evaluation.robustness.parts import (
    accent_of,
    choose_parts,
    label_captions,
    limit,
)
from sir_jax.evaluation.robustness.table import format_table, read_table
from sir_jax.inference.embed import embed_split

FAMILIES = ["gain", "white noise", "grey"]
MARK = {"fingerprint": "abc", "corpus": "spoken/x", "batch_size": 4, "resamples": 200}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return SpokenSplit(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def whole(tiny, split, tmp_path_factory):
    """Return (folder, rows) of a grid that ran without a stop."""
    cfg, model, params = tiny
    folder = tmp_path_factory.mktemp("grid")
    path = run_grid(model, params, split, cfg.data, choose(FAMILIES), folder, **MARK)
    return folder, read_table(path)


def number(rows, family, level, metric, column="value") -> float:
    (row,) = [
        r
        for r in rows
        if (r["family"], r["level"], r["metric"], r["part"]) == (family, level, metric, "")
    ]
    return float(row[column])


def test_the_clean_row_is_that_of_evaluate_and_gain_changes_nothing(tiny, split, whole):
    cfg, model, params = tiny
    z = embed_split(model, params, split, cfg.data, 4)
    flat = retrieval_metrics(z.speech, z.image, z.speech_image_ids, z.image_ids).flat()
    rows = whole[1]
    for metric in ("s2i_r1", "i2s_r1", "mean_r1", "s2i_r5", "i2s_r10"):
        assert number(rows, "clean", "", metric) == pytest.approx(flat[metric], abs=1e-6)
        # Waves are normalised, so loudness cannot matter.
        assert number(rows, "gain", "-20 dB", metric, "difference") == 0
    assert len({(r["family"], r["level"]) for r in rows}) == 1 + 3 + 5 + 1
    (first,) = [r for r in rows if r["family"] == "clean" and r["metric"] == "s2i_r1"]
    assert first["queries"] == "8" and first["gallery"] == "4" and first["difference"] == ""


def test_differences_are_paired(tiny, split, whole):
    cfg, model, params = tiny
    z = embed_split(model, params, split, cfg.data, 4)
    (condition,) = [c for c in choose(["white noise"]) if c.level == "-5 dB"]
    noisy = grid._encode_speech(model, params, split, cfg.data, 4, condition, 0)
    sides = [
        retrieval_metrics(x, z.image, z.speech_image_ids, z.image_ids).s2i.hits(1)
        for x in (noisy, z.speech)
    ]
    found = paired_difference(sides[0][0], sides[1][0], sides[0][1], 200)
    rows = whole[1]
    for column, value in (
        ("difference", found.value),
        ("difference_low", found.low),
        ("difference_high", found.high),
        ("p_value", found.p_value),
    ):
        got = number(rows, "white noise", "-5 dB", "s2i_r1", column)
        assert got == pytest.approx(value, abs=1e-5)


def test_a_stopped_grid_goes_on_and_encodes_nothing_twice(
    tiny, split, whole, tmp_path, monkeypatch
):
    cfg, model, params = tiny
    calls, encode = [], {"speech": grid.embed_speech, "image": grid.embed_images}

    def counted(side):
        def run(*args):
            calls.append(side)
            return encode[side](*args)

        return run

    monkeypatch.setattr(grid, "embed_speech", counted("speech"))
    monkeypatch.setattr(grid, "embed_images", counted("image"))
    monkeypatch.setattr(
        grid, "embed_split", lambda *args: calls.append("split") or embed_split(*args)
    )
    conditions = choose(FAMILIES)
    run_grid(model, params, split, cfg.data, conditions[:4], tmp_path, **MARK)
    assert calls == ["split"] + ["speech"] * 4
    calls.clear()
    path = run_grid(model, params, split, cfg.data, conditions, tmp_path, **MARK)
    assert calls == ["speech"] * 4 + ["image"]
    assert path.read_bytes() == (whole[0] / "robustness.csv").read_bytes()
    calls.clear()
    run_grid(model, params, split, cfg.data, conditions, tmp_path, **MARK)
    assert calls == []
    with pytest.raises(UserError, match="a grid with model 'abc', not 'other'; give another --out"):
        run_grid(
            model, params, split, cfg.data, conditions, tmp_path, **MARK | {"fingerprint": "other"}
        )
    few = limit(split, 3, 0)
    with pytest.raises(UserError, match="a grid with clips"):
        run_grid(model, params, few, cfg.data, conditions, tmp_path, **MARK)


def test_parts_are_told_by_engine_language_and_accent(split):
    labels = label_captions(split)
    assert labels["kind"].tolist() == ["synthesised"] * 8 and choose_parts(labels) == {}
    labels["engine"] = np.array(["human"] * 11 + ["espeak"] * 12 + [""] * 4, object)
    labels["language"] = np.array(["fr"] * 9 + ["en"] * 18, object)
    parts = choose_parts(labels)
    assert {name: int(chosen.sum()) for name, chosen in parts.items()} == {
        "engine=human": 11,
        "engine=espeak": 12,
        "language=en": 18,
    }
    assert accent_of("en-gb-scotland+Gene", "en") == "en-gb-scotland"
    assert accent_of("en_US-joe-medium", "en") == "en-us"
    assert accent_of("anna", "pt-BR") == "pt-br" and accent_of("anna", "fr") == ""


def test_parts_of_people_and_machines_in_the_table(tiny, tmp_path, monkeypatch):
    cfg, model, params = tiny
    people = SpokenSplit(tmp_path, engine="human")
    machine = SpokenSplit(tmp_path)
    people.records[2:] = machine.records[2:]
    monkeypatch.setattr("sir_jax.evaluation.robustness.parts.LEAST_CLIPS", 4)
    path = run_grid(model, params, people, cfg.data, [], tmp_path / "out", **MARK)
    rows = [r for r in read_table(path) if r["metric"] == "s2i_r1"]
    found = {r["part"]: (r["queries"], r["gallery"]) for r in rows}
    assert found["kind=human"] == found["kind=synthesised"] == ("4", "4")
    assert found[""] == ("8", "4") and {"engine=human", "engine=espeak"} <= found.keys()
    halves = [float(r["value"]) for r in rows if r["part"].startswith("kind=")]
    (all_of_it,) = [float(r["value"]) for r in rows if not r["part"]]
    assert all_of_it == pytest.approx(sum(halves) / 2, abs=1e-6)


def test_first_pictures_and_captions(split):
    few = limit(split, 3, 1)
    assert len(few) == 3 and few.index["slot"].tolist() == [0, 0, 0] and few.name == "train"
    assert few[2] is split.records[2] and limit(split, 0, 0) is split


def test_text_and_figure(whole, tmp_path):
    rows = whole[1]
    lines = format_table(rows).splitlines()
    assert len(lines) == 11 and lines[1].startswith("clean")
    assert f"{100 * number(rows, 'clean', '', 's2i_r1'):.1f}" in lines[1]
    figure = draw({"old": rows, "new": rows})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["clean", "white noise 20 dB"] and len(labels) == 10
    assert len(figure.legends[0].get_texts()) == 4
    save({"old": rows}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_verb_refuses_before_it_loads(tmp_path, capsys):
    wrong = ["robustness", "--model=nowhere"]
    assert cli.main([*wrong, "--conditions=louder"]) == 2
    assert "no 'louder'" in capsys.readouterr().err
    assert cli.main([*wrong, f"--beside={tmp_path}"]) == 2
    assert "has no robustness.csv" in capsys.readouterr().err
    assert cli.main([*wrong, "--images=-1"]) == 2
    assert "--images is -1; give 0 or more" in capsys.readouterr().err
