"""The verbs `evaluate` and `compare` on a small corpus: they print the library's own numbers."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from tiny_models import filled

from sir_jax.cli import main as cli
from sir_jax.cli.model import train
from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.preparation.scenes import make_spoken_scenes
from sir_jax.evaluation.evaluate import compare, evaluate_split, format_compared
from sir_jax.evaluation.folds import folds_of
from sir_jax.evaluation.intervals import paired_difference
from sir_jax.evaluation.ranking import format_table, intervals_of
from sir_jax.evaluation.rerank import format_reranked
from sir_jax.evaluation.score.fit import fit_workdir
from sir_jax.inference.release import find, write_release
from sir_jax.inference.score import UNFITTED
from sir_jax.models import build_model
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import init_state


def write_checkpoint(workdir, model, cfg, written=None):
    """Save a checkpoint of random parameters and return them; `written` replaces the config."""
    init = functools.partial(
        init_state, model=model, tx=make_optimizer(cfg.optim, cfg.train.steps), cfg=cfg
    )
    checkpoints = Checkpoints(workdir)
    state = jax.device_put(filled(jax.eval_shape(init, jax.random.key(1)), 1))
    checkpoints.note_evaluation(1, {"val/mean_r1": 0.1})
    checkpoints.save(state, 1, written or cfg)
    checkpoints.wait()
    checkpoints.close()
    return state.params


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Return (workdir, data_dir, cfg, corpus, params): random parameters, six test images."""
    data_dir = tmp_path_factory.mktemp("corpora")
    scenes = SceneConfig(
        train_images=2, val_images=2, test_images=6, captions=2, image_size=32, seed=3
    )
    corpus = make_spoken_scenes(scenes, data_dir, workers=1)
    cfg = tiny[0].copy_and_resolve_references()
    cfg.data.corpus = corpus.name
    cfg.data.buckets = (64_000,)
    workdir = tmp_path_factory.mktemp("run")
    params = write_checkpoint(workdir, tiny[1], cfg)
    return workdir, data_dir, cfg, corpus, params


def test_table_and_json_hold_the_librarys_numbers(run, capsys):
    workdir, data_dir, cfg, corpus, params = run
    where = [f"--workdir={workdir}", f"--data_dir={data_dir}"]
    assert cli.main(["evaluate", *where, "--batch_size=5"]) == 0
    out = capsys.readouterr().out
    model = build_model(cfg.model)
    metrics = evaluate_split(model, params, corpus.splits["test"], cfg.data, batch_size=5)
    written = json.loads((workdir / "eval_test.json").read_text())
    assert written["metrics"] == pytest.approx(metrics.flat() | intervals_of([metrics]))
    assert metrics.table() == format_table(written["metrics"])
    assert metrics.table() in out and corpus.name in out
    assert written["metrics"]["s2i_gallery"] == 6 and written["metrics"]["i2s_gallery"] == 12
    assert written["metrics"]["s2i_chance_r1"] == pytest.approx(1 / 6)


def test_a_release_has_the_runs_numbers(run, tmp_path, capsys):
    workdir, data_dir, cfg, corpus, params = run
    options = [f"--data_dir={data_dir}", "--batch_size=5", "--json"]
    assert cli.main(["evaluate", f"--workdir={workdir}", *options]) == 0
    expected = json.loads(capsys.readouterr().out)
    write_release(tmp_path / "release", cfg, params, "mine", "float32", {}, "")
    assert cli.main(["evaluate", f"--model={tmp_path / 'release'}", *options]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert expected["corpus"] == expected["trained_on"] == corpus.name


def test_two_retrievers_are_compared_by_query(run, tiny, tmp_path, capsys):
    workdir, data_dir, cfg, corpus, params = run
    other = jax.tree.map(lambda x: x + 0.3 * np.random.default_rng(0).normal(size=x.shape), params)
    other = jax.tree.map(lambda x: x.astype(np.float32), other)
    write_release(tmp_path / "other", cfg, other, "other", "float32", {}, "")
    options = [str(workdir), str(tmp_path / "other"), f"--data_dir={data_dir}", "--batch_size=5"]
    assert cli.main(["compare", *options]) == 0
    first, a, b, head, *rows, legend = capsys.readouterr().out.splitlines()
    assert first == f"{corpus.name}, split test: 12 spoken and 6 image queries, ranked by embedding"
    assert a == f"A: {workdir}" and b == f"B: {tmp_path / 'other'}"
    assert head.split() == "A % B % A - B p".split() and "interval over pictures" in legend

    split = corpus.splits["test"]
    own, others = (evaluate_split(tiny[1], x, split, cfg.data, 5) for x in (params, other))
    assert own.s2i.ranks.tolist() != others.s2i.ranks.tolist()
    compared = compare(own, others)
    assert "\n".join([head, *rows, legend]) == format_compared(compared)
    assert [(one.title, one.k) for one in compared[:4]] == [
        *(("speech->image", k) for k in (1, 5, 10)),
        ("image->speech", 1),
    ]
    hits = [one.s2i.ranks <= 1 for one in (own, others)]
    assert compared[0].difference == paired_difference(*hits, split.index["image_id"])
    flats = [one.flat() | intervals_of([one]) for one in (own, others)]
    for found, flat in zip((compared[-2].a, compared[-2].b), flats, strict=True):
        assert found == tuple(flat[f"mean_r5{end}"] for end in ("", "_low", "_high"))
    cells = [f"{100 * x:+.1f}" for x in compared[0].difference[:3]]
    assert f"{cells[0]} [{cells[1]}, {cells[2]}]" in rows[0]

    assert cli.main(["compare", *options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["compared"][0]["difference"] == compared[0].difference._asdict()
    # With itself, nothing differs.
    assert format_compared(compare(own, own)).count("+0.0 [+0.0, +0.0]  1.0000") == 9


def test_what_cannot_be_compared_gets_one_line(run, tmp_path, capsys):
    workdir, data_dir, cfg, corpus, params = run
    elsewhere = cfg.copy_and_resolve_references()
    elsewhere.data.corpus = "spoken_coco/karpathy"
    write_release(tmp_path / "other", elsewhere, params, "other", "float32", {}, "")
    options = [str(workdir), str(tmp_path / "other"), f"--data_dir={data_dir}", "--batch_size=5"]
    assert cli.main(["compare", *options]) == 2
    assert capsys.readouterr().err == (
        f"sir-jax compare: A was trained on {corpus.name}, B on spoken_coco/karpathy; choose one "
        "with --corpus\n"
    )
    assert cli.main(["compare", *options, f"--corpus={corpus.name}", "--rerank=2"]) == 2
    assert "no matching head" in capsys.readouterr().err
    split = corpus.splits["test"]
    model = build_model(cfg.model)
    whole, part = (
        evaluate_split(model, params, x, cfg.data, 5) for x in (split, folds_of(split, 4)[0])
    )
    with pytest.raises(ValueError, match="differ in the queries of speech->image"):
        compare(whole, part)


def test_folds_are_the_mean_of_their_own_evaluations(run, capsys):
    workdir, data_dir, cfg, corpus, params = run
    where = [f"--workdir={workdir}", f"--data_dir={data_dir}", "--batch_size=5"]
    assert cli.main(["evaluate", *where, "--fold_images=4"]) == 0
    out = capsys.readouterr().out
    assert "mean over 1 folds of 4 images; 2 images that fill no fold are left out" in out
    assert cli.main(["evaluate", *where, "--fold_images=2"]) == 0
    written = json.loads((workdir / "eval_test_folds-of-2.json").read_text())
    model = build_model(cfg.model)
    found = [
        evaluate_split(model, params, fold, cfg.data, 5)
        for fold in folds_of(corpus.splits["test"], 2)
    ]
    flats = [metrics.flat() for metrics in found]
    assert intervals_of(found).items() <= written["metrics"].items()
    assert len(flats) == 3 and written["fold_images"] == 2
    for name in ("s2i_r1", "i2s_r1", "mean_r", "s2i_gallery", "i2s_median_rank"):
        expected = sum(flat[name] for flat in flats) / 3
        assert written["metrics"][name] == pytest.approx(expected), name
    assert written["metrics"]["s2i_gallery"] == 2


def test_another_corpus_is_evaluated_zero_shot(run, capsys):
    workdir, data_dir, cfg, _, params = run
    scenes = SceneConfig("two", 2, 2, 4, captions=3, image_size=32, seed=5)
    other = make_spoken_scenes(scenes, data_dir, workers=1)
    where = [f"--workdir={workdir}", f"--data_dir={data_dir}", "--batch_size=5"]
    assert cli.main(["evaluate", *where, f"--corpus={other.name}"]) == 0
    assert f"trained on {cfg.data.corpus}: zero-shot" in capsys.readouterr().out
    path = workdir / f"eval_{other.name.replace('/', '-')}_test.json"
    written = json.loads(path.read_text())
    assert (written["corpus"], written["trained_on"]) == (other.name, cfg.data.corpus)
    metrics = evaluate_split(build_model(cfg.model), params, other.splits["test"], cfg.data, 5)
    assert written["metrics"] == pytest.approx(metrics.flat() | intervals_of([metrics]))
    assert written["metrics"]["captions_per_image_min"] == 3


def is_typical_by_another_corpus(workdir, corpus):
    """See that how alike a true pair is may be told by another corpus, and nothing else by it."""
    found = find(workdir).score
    other = dataclasses.replace(corpus, name="other/x", splits={"val": corpus.splits["test"]})
    here = fit_workdir(workdir, corpus, typical=other)
    assert (
        here.fitted == {**found.fitted, "typical_corpus": "other/x"} and here.weight == found.weight
    )
    assert here.typical != found.typical
    swapped = dataclasses.replace(corpus, splits={"val": corpus.splits["test"]})
    assert here.typical == fit_workdir(workdir, swapped).typical
    assert fit_workdir(workdir, corpus) == found


def test_reranked_table_and_json(run, capsys, tmp_path):
    _, data_dir, cfg, corpus, _ = run
    cfg = cfg.copy_and_resolve_references()
    cfg.loss.sim.weight = 1.0
    cfg.model.fusion.update(layers=1, width=32, heads=2, mlp_width=64)
    cfg.eval.rerank = 8
    model = build_model(cfg.model, ("match",))
    params = write_checkpoint(tmp_path, model, cfg)
    where = [f"--workdir={tmp_path}", f"--data_dir={data_dir}", "--batch_size=5"]
    assert cli.main(["evaluate", *where]) == 0
    out = capsys.readouterr().out
    reranked = evaluate_split(model, params, corpus.splits["test"], cfg.data, 5, k=8)
    content = json.loads((tmp_path / "eval_test.json").read_text())
    written = content["metrics"]
    timed = ("rerank_seconds", "rerank_passes_per_s")
    numbers = reranked.flat() | intervals_of([reranked])
    expected = {name: value for name, value in numbers.items() if name not in timed}
    assert expected.items() <= written.items() and written.keys() - expected.keys() == set(timed)
    assert format_reranked(written) in out and format_table(written) == reranked.coarse.table()
    assert (written["rerank_k_s2i"], written["rerank_k_i2s"]) == (6, 8)
    assert written["rerank_cap_s2i"] == 1.0 and written["rerank_pairs"] == 72

    # Fitted on the validation split, the score is kept, used and released.
    assert written["weight"] == 1.0 and written["weights_fitted"] == 0.0
    assert find(tmp_path).score == UNFITTED and "not fitted" in out
    assert cli.main(["evaluate", *where, "--fit"]) == 0
    captured = capsys.readouterr()
    found = find(tmp_path).score
    told = found.fitted
    assert (told["corpus"], told["split"], told["images"], told["k"]) == (corpus.name, "val", 2, 8)
    assert f"weight of the match {found.weight:.3g}" in captured.out
    fitted = json.loads((tmp_path / "eval_test.json").read_text())["metrics"]
    assert fitted["weight"] == found.weight and fitted["weights_fitted"] == 1.0
    again = evaluate_split(model, params, corpus.splits["test"], cfg.data, 5, 8, found)
    assert fitted["fused_mean_r1"] == again.flat()["fused_mean_r1"]
    write_release(tmp_path / "out", cfg, params, "r", "float32", {}, "", found)
    assert find(tmp_path / "out").score == found

    is_typical_by_another_corpus(tmp_path, corpus)

    # Training fits at its end what was not fitted; so does an export, where the corpus is there.
    assert fit_workdir(tmp_path, corpus, again=False) == found
    (tmp_path / "score.json").unlink()
    train.fit(cfg, str(tmp_path), corpus)
    assert find(tmp_path).score == found and "fitted on 2 images" in capsys.readouterr().out
    (tmp_path / "score.json").unlink()
    assert cli.main(["export", f"--workdir={tmp_path}", f"--out={tmp_path / 'plain'}"]) == 0
    assert "no probability will be shown" in capsys.readouterr().out
    assert find(tmp_path / "plain").score == UNFITTED

    # Without re-ranking, the same checkpoint gives no numbers of re-ranking.
    assert cli.main(["evaluate", *where, "--rerank=0"]) == 0
    written = json.loads((tmp_path / "eval_test.json").read_text())["metrics"]
    assert not [name for name in written if "rerank" in name or "weight" in name]
    assert cli.main(["evaluate", f"--model={tmp_path / 'out'}", "--fit"]) == 2
    assert "score of a release is fixed" in capsys.readouterr().err
    assert cli.main(["evaluate", *where, "--cautious"]) == 2
    assert "--cautious say how to fit; give --fit" in capsys.readouterr().err


def test_an_old_config_without_losses_cannot_be_reranked(run, tiny, capsys, tmp_path):
    _, data_dir, cfg, *_ = run
    old = cfg.copy_and_resolve_references()
    del old.loss
    write_checkpoint(tmp_path, tiny[1], cfg, old)
    where = [f"--workdir={tmp_path}", f"--data_dir={data_dir}"]
    assert cli.main(["evaluate", *where, "--rerank=3"]) == 2
    assert "loss.sim.weight is 0" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["evaluate", *where]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split=dev"], "no split 'dev'; choose one of train, val, test"),
        (["--data_dir=elsewhere"], "sir-jax data spoken_scenes"),
        (["--batch_size=0"], "--batch_size is 0"),
        (["--fold_images=-1"], "--fold_images is -1"),
        (["--fold_images=7"], "has 6 images, not the 7 of one fold"),
        (["--rerank=-1"], "--rerank is -1"),
        (["--rerank=5"], "loss.sim.weight is 0"),
        (["--workdir=nothing/here"], "is no folder; give"),
    ],
)
def test_mistakes_get_one_line(run, more, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir, data_dir, *_ = run
    status = cli.main(["evaluate", f"--workdir={workdir}", f"--data_dir={data_dir}", *more])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and message in lines[-1]
