"""The `ablate` verb on a corpus of a few scenes: it trains, evaluates, resumes and refuses."""

import csv

import jax
import numpy as np
import pytest
from shared_runs import untrained
from tiny_models import random_params

from sir_jax.cli import main as cli
from sir_jax.cli.model.ablate import main
from sir_jax.config.command_line import load_config
from sir_jax.data.corpus import open_corpus
from sir_jax.errors import UserError
from sir_jax.evaluation.ablate import (
    append_results,
    folder_name,
    format_summary,
    read_results,
    run_config,
    summarise,
)
from sir_jax.evaluation.denoise import denoising_metrics
from sir_jax.models import build_model
from sir_jax.objective.switches import fusion_tasks

CONFIG = """
from sir_jax.config.presets import base_config

SEEDS = (0, 1)
ABLATIONS = {
    "contrastive": {},
    "+ everything": {
        "loss.sic.queue": 20, "loss.sic.alpha": 0.4, "loss.sim.weight": 1.0,
        "loss.cmd.weight": 1.0, "loss.cmd.direction": "both",
    },
}


def get_config(arg=""):
    c = base_config("tiny", "tiny")
    c.data.corpus = "spoken_scenes/compositional-i16-d4-t8-c2-v64-p32-s0"
    c.data.data_dir = DATA
    c.data.update(buckets=(24_000,), image_size=16, batch_size=8)
    c.model.speech.update(width=32, layers=1, heads=2, mlp_width=64, pos_kernel=8,
                          conv_width=(8, 32), conv_kernel=(40, 8), conv_stride=(40, 16),
                          pos_groups=4)
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(heads=2, mlp_width=64)
    c.model.fusion.update(layers=1, width=32, heads=2, mlp_width=64)
    c.model.embed_width = 16
    # Random numbers are half of a program's operations; none of these tests looks at them.
    c.model.speech.dropout = c.model.head.dropout = c.model.fusion.dropout = 0.0
    c.optim.warmup_steps = 1
    c.train.update(steps=2, eval_every=0, checkpoint_every=2, log_every=1, num_threads=1)
    c.mesh.data = 1
    c.eval.rerank = 3
    return c
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Return a folder with the corpus and a config file."""
    root = tmp_path_factory.mktemp("ablate")
    assert (
        cli.main(
            [
                "data",
                "spoken_scenes",
                "--engines=espeak",
                "--level=compositional",
                "--train_images=16",
                "--val_images=4",
                "--test_images=8",
                "--captions=2",
                "--image_size=32",
                f"--data_dir={root}/data",
            ]
        )
        == 0
    )
    (root / "toy.py").write_text(CONFIG.replace("DATA", repr(f"{root}/data")))
    return root


def ablate(root, *more):
    return main([f"--config={root}/toy.py", f"--workdir={root}/runs", *more])


# Training with every term is seen in training/test_stored_features.py.
@pytest.fixture
def runs_learn_nothing():
    with untrained():
        yield


@pytest.mark.slow
def test_every_variant_is_run_once(toy, runs_learn_nothing, capsys):
    assert ablate(toy, "--seeds=0") == 0
    printed = capsys.readouterr().out
    table = toy / "runs" / "results.csv"
    rows = read_results(table)
    values = {(r["ablation"], r["metric"]): float(r["value"]) for r in rows}
    assert {r["seed"] for r in rows} == {"0"} and {r["split"] for r in rows} == {"test"}
    assert values["contrastive", "s2i_gallery"] == 8
    low, high = (values["contrastive", f"mean_r1_{end}"] for end in ("low", "high"))
    assert low <= values["contrastive", "mean_r1"] <= high and low < high
    assert "R@1 over pictures" in printed
    assert ("contrastive", "reranked_s2i_r1") not in values
    assert values["+ everything", "rerank_k_s2i"] == 3
    assert values["+ everything", "rerank_cap_s2i"] >= values["+ everything", "reranked_s2i_r1"]
    for modality in ("speech", "image"):
        assert -1 <= values["+ everything", f"denoise_{modality}_cosine_shuffled"] <= 1
    tables = [
        [line.split("  ")[0] for line in table.splitlines()] for table in printed.split("\n\n")
    ]
    counts = [(x.count("contrastive"), x.count("+ everything")) for x in tables]
    # One line a ranking: the embeddings' alone; then coarse, match alone, and fused. These of
    # recalls, partners and differences to the first; and what is rebuilt, speech and pictures.
    assert counts == [(1, 3), (1, 3), (0, 3), (0, 2)]
    partners = values["+ everything", "fused_s2i_partner"], values["contrastive", "mean_partner"]
    assert all(0 <= rate <= 1 for rate in partners)
    with np.load(toy / "runs" / "everything-s0" / "queries-test.npz") as queries:
        assert queries["fused_s2i_r1"].mean() == values["+ everything", "fused_s2i_r1"]
    assert values["+ everything", "weights_fitted"] == 1 and values["+ everything", "weight"] >= 0
    assert (toy / "runs" / "everything-s0" / "metrics.jsonl").exists()

    # Finished runs are skipped.
    before = table.read_text()
    assert ablate(toy, "--seeds=0") == 0
    assert capsys.readouterr().out.count("already") == 2
    assert table.read_text() == before

    # A run that was trained but has no rows is evaluated again without training, to equal rows;
    # another seed adds its own and changes no other.
    table.unlink()
    append_results(table, [r for r in rows if r["ablation"] == "+ everything"])
    before = table.read_text()
    assert ablate(toy, "--seeds=0,1", "--only=contrastive") == 0
    assert capsys.readouterr().out.count("nothing to train") == 1
    assert table.read_text().startswith(before)
    again = [r for r in read_results(table) if r["ablation"] == "contrastive"]
    first = [r for r in rows if r["ablation"] == "contrastive"]
    assert [r for r in again if r["seed"] == "0"] == first
    assert [r["metric"] for r in again if r["seed"] == "1"] == [r["metric"] for r in first]

    # Rows of another config are refused.
    with pytest.raises(UserError, match="optim.learning_rate is 0.0001 there and 0.5 here"):
        ablate(toy, "--config.optim.learning_rate=0.5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only=queue"], "no ablation 'queue'; choose from contrastive, \\+ everything"),
        (["--seeds=a"], "--seeds=a: give whole numbers"),
        (["--split=dev"], "has no split 'dev'; choose one of train, val, test"),
        (["--config.loss.sim.wait=1"], "the nearest is loss.sim.weight"),
    ],
)
def test_mistyped_options_are_refused(toy, options, message):
    with pytest.raises(UserError, match=message):
        ablate(toy, *options)


def test_a_config_without_ablations_is_refused(toy):
    path = toy / "plain.py"
    path.write_text(
        CONFIG.split("ABLATIONS")[0]
        + CONFIG[CONFIG.index("\n\ndef") :].replace("DATA", "'nowhere'")
    )
    with pytest.raises(UserError, match="defines no ABLATIONS"):
        main([f"--config={path}", "--workdir=x"])


def test_a_change_of_an_unknown_field_is_refused(toy):
    base = load_config(f"{toy}/toy.py")
    with pytest.raises(UserError, match="no field 'loss.sic.tail'; the nearest is loss.sic."):
        run_config(base, {"loss.sic.tail": 3}, 0)
    with pytest.raises(UserError, match="ABLATIONS .*'loss.sic.queue': 'long'"):
        run_config(base, {"loss.sic.queue": "long"}, 0)
    cfg = run_config(base, {"loss.sic.queue": 5}, 3)
    assert (cfg.loss.sic.queue, cfg.seed, base.loss.sic.queue, base.seed) == (5, 3, 0, 0)


def test_folder_names_need_no_quoting_in_a_shell():
    assert folder_name("+ queue + SIM", 1) == "queue_sim-s1"
    assert folder_name("contrastive", 0) == "contrastive-s0"


ROWS = [
    {"ablation": name, "seed": str(seed), "split": "test", "metric": metric, "value": str(value)}
    for name, seed, shift in (("a", 0, 0.0), ("a", 1, 0.2), ("b", 0, 0.5))
    for metric, value in (
        ("s2i_r1", 0.1 + shift),
        ("i2s_r1", 0.3 + shift),
        ("mean_r1", 0.2 + shift),
        ("mean_r5", 0.25 + shift),
        ("mean_r10", 0.3 + shift),
        *((("reranked_s2i_r1", 0.4),) if name == "b" else ()),
    )
]


def test_summary():
    summary = {(r["ablation"], r["metric"]): r for r in summarise(ROWS)}
    assert summary["a", "s2i_r1"]["mean"] == pytest.approx(0.2)
    assert summary["a", "s2i_r1"]["std"] == pytest.approx(0.2 / np.sqrt(2))  # of a sample: n - 1
    assert summary["a", "s2i_r1"]["seeds"] == 2 and np.isnan(summary["b", "s2i_r1"]["std"])
    lines = [line.split() for line in format_summary(ROWS, "test").splitlines()]
    assert lines[1] == [
        "a",
        "coarse",
        "2",
        *"20.0 +- 14.1 40.0 +- 14.1 30.0 +- 14.1 35.0 +- 14.1 40.0 +- 14.1".split(),
    ]
    # The re-ranked scoring of "b" lacks columns, so it has no line.
    assert len(lines) == 3
    # A single seed has no standard deviation.
    assert "over pictures" not in format_summary(ROWS, "test")
    assert lines[2] == ["b", "coarse", "1", "60.0", "80.0", "70.0", "75.0", "80.0"]


def test_table_survives_names_with_commas_and_refuses_other_columns(tmp_path):
    path = tmp_path / "results.csv"
    rows = [{**ROWS[0], "ablation": 'a, "b"'}]
    append_results(path, rows)
    append_results(path, ROWS[1:2])
    assert read_results(path) == [*rows, ROWS[1]]
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 3
    path.write_text("name,value\n")
    with pytest.raises(UserError, match="has other columns"):
        read_results(path)


@pytest.fixture(scope="module")
def denoiser(toy):
    """Return (cfg, model, params, test split) of a model that rebuilds both modalities."""
    base = load_config(f"{toy}/toy.py")
    cfg = run_config(base, {"loss.cmd.weight": 1.0, "loss.cmd.direction": "both"}, 0)
    model = build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind))
    params = random_params(model)
    # Smaller kernels would make the heads deaf to the context.
    params["fusion"] = jax.tree.map(lambda x: 3 * x if x.ndim == 2 else x, params["fusion"])
    return cfg, model, params, open_corpus(cfg.data.corpus, cfg.data.data_dir).splits["test"]


def test_a_wrong_context_changes_the_cosine_of_a_head_that_reads_it_and_of_no_other(denoiser):
    cfg, model, params, split = denoiser
    metrics = denoising_metrics(model, params, split, cfg)
    assert len(metrics) == 6
    for modality in ("speech", "image"):
        name = f"denoise_{modality}_cosine"
        assert abs(metrics[name] - metrics[f"{name}_shuffled"]) > 1e-4
        # The noise is a token of another item: similar to the clean token, but not equal to it.
        assert metrics[f"{name}_noisy"] < 0.9999
    deaf = jax.tree.map(lambda p: p, params)
    deaf["fusion"]["layers_00"]["cross_attention"]["out"] = jax.tree.map(
        np.zeros_like, params["fusion"]["layers_00"]["cross_attention"]["out"]
    )
    metrics = denoising_metrics(model, deaf, split, cfg)
    for modality in ("speech", "image"):
        name = f"denoise_{modality}_cosine"
        assert metrics[name] == pytest.approx(metrics[f"{name}_shuffled"], abs=1e-6)


def test_without_denoising_there_is_nothing_to_measure(denoiser):
    cfg, model, params, split = denoiser
    plain = run_config(cfg, {"loss.cmd.weight": 0.0}, 0)
    assert denoising_metrics(model, params, split, plain) == {}
    assert denoising_metrics(model, params, split, cfg) == denoising_metrics(
        model, params, split, cfg, ratio=cfg.loss.cmd.ratio
    )


def test_summary_tells_spread_over_seeds_from_intervals_over_pictures():
    ends = (("low", 0, 0.1), ("high", 0, 0.3), ("low", 1, 0.2), ("high", 1, 0.6))
    more = [
        ROWS[0] | {"metric": f"mean_r1_{end}", "seed": str(seed), "value": str(value)}
        for end, seed, value in ends
    ]
    head, a, b = format_summary(ROWS + more, "test").splitlines()
    assert head.endswith("mean R@10  R@1 over pictures")
    assert a.endswith("40.0 +- 14.1       15.0 to 45.0") and b.endswith("80.0")
