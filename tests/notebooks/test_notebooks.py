"""Every notebook is the pair of its script, holds small outputs of all its cells, and runs."""

import csv
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image
from shared_runs import untrained
from tiny_models import tiny_config

from sir_jax.evaluation.ablate import COLUMNS, format_summary, read_results

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
MOST_BYTES = 300_000


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def printed(cells) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def run(name: str, monkeypatch) -> dict:
    """Run a notebook's cells here, which is sooner than in a kernel; return its variables."""
    monkeypatch.setattr(plt, "show", lambda: None)
    variables = {"__name__": "__main__"}
    for number, cell in enumerate(jupytext.read(ROOT / "notebooks" / f"{name}.py").cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}, cell {number}", "exec"), variables)
    return variables


@pytest.fixture(autouse=True)
def drawn_without_a_screen():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_its_scripts_pair_with_small_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    script = jupytext.read(path.with_suffix(".py"))
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (notebook, script)]
    # Where they differ: python notebooks/store_outputs.py
    assert cells[0] == cells[1]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [output.output_type for cell in code for output in cell.outputs]
    assert "display_data" in kinds and "error" not in kinds
    assert path.stat().st_size <= MOST_BYTES
    # No path of the machine that ran it.
    assert str(Path.home()) not in path.read_text() and str(ROOT) not in path.read_text()


@pytest.fixture
def table(tmp_path):
    """Return a results table of two ablations and three seeds."""
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for seed in range(3):
            for ablation, prefixes in (
                ("contrastive", [""]),
                ("+ all", ["", "reranked_", "fused_"]),
            ):
                for prefix in prefixes:
                    for metric in ("s2i_r1", "i2s_r1", "mean_r1", "mean_r5", "mean_r10"):
                        writer.writerow(
                            [ablation, seed, "test", prefix + metric, 0.5 + 0.01 * seed]
                        )
            for kind, value in (("cosine", 0.8), ("cosine_shuffled", 0.6), ("cosine_noisy", 0.1)):
                writer.writerow(["+ all", seed, "test", f"denoise_image_{kind}", value])
    return path


def test_ablation_notebook_reads_a_table_into_numbers_and_figures(
    monkeypatch, table, tmp_path, capsys
):
    monkeypatch.setenv("SIR_JAX_ABLATIONS", str(table))
    monkeypatch.setenv("SIR_JAX_FIGURES", str(tmp_path))
    run("ablations", monkeypatch)
    out = capsys.readouterr().out
    assert "results.csv: 69 rows, split test, seeds [0, 1, 2]" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["contrastive", "coarse", "3", *["51.0", "+-", "1.0"] * 5] in lines
    assert ["+", "all", "fused", "3", *["51.0", "+-", "1.0"] * 5] in lines
    for name in ("ablations.png", "denoising.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_page_and_notebook_show_the_table_as_it_was_measured():
    rows = read_results(ROOT / "docs" / "ablations.csv")
    lines = format_summary(rows, "test").splitlines()
    assert len(lines) == 9 and {row["seed"] for row in rows} == {"0", "1", "2"}
    assert "\n".join(lines) in (ROOT / "docs" / "evaluation.md").read_text()
    stored = printed(read("ablations").cells)
    assert "\n".join(lines) in stored and f"{len(rows)} rows" in stored


def test_quickstart_notebook_runs_with_another_model(monkeypatch, matching_workdir, capsys):
    monkeypatch.setenv("SIR_JAX_MODEL", str(matching_workdir))
    monkeypatch.setenv("SIR_JAX_PICTURES", "12")
    variables = run("quickstart", monkeypatch)
    assert "speech (12, 32), pictures (12, 32), float32" in capsys.readouterr().out
    assert variables["odds"].shape == (12, 12) and np.isfinite(variables["odds"]).all()
    assert len(plt.get_fignums()) == 3
    lines = printed(read("quickstart").cells).splitlines()
    # The model that ships finds all twelve.
    assert sum(line.startswith("1 of 200: ") for line in lines) == 12


def test_corpus_notebook_makes_a_corpus_and_draws_it(monkeypatch, capsys):
    monkeypatch.setenv("SIR_JAX_IMAGES", "6")
    monkeypatch.delenv("SIR_JAX_CORPUS", raising=False)
    variables = run("corpus", monkeypatch)
    out = capsys.readouterr().out
    assert "one-i6-d2-t2-c4" in out and "speakers in train and test: 0" in out
    assert len(variables["index"]) == 24 and len(plt.get_fignums()) == 3
    assert Image.open(variables["jpeg"]).width == 900


def test_robustness_notebook_runs_a_small_grid(monkeypatch, matching_workdir, capsys):
    monkeypatch.setenv("SIR_JAX_MODEL", str(matching_workdir))
    monkeypatch.setenv("SIR_JAX_PICTURES", "4")
    monkeypatch.setenv("SIR_JAX_FAMILIES", "gain,grey")
    monkeypatch.delenv("SIR_JAX_GRID", raising=False)
    variables = run("robustness", monkeypatch)
    assert "4 pictures, 8 captions" in capsys.readouterr().out
    assert set(variables["loss"].mean().index) == {"gain", "grey"} and len(plt.get_fignums()) == 2


def test_own_pictures_notebook_learns_and_finds(monkeypatch, capsys):
    small = lambda corpus: tiny_config(**{"data.corpus": corpus})  # noqa: E731
    monkeypatch.setattr("sir_jax.learning.setup.small_pair", small)
    monkeypatch.setattr("sir_jax.learning.sizes.SHARES", (1.0,))  # few programs to compile
    monkeypatch.setattr("sir_jax.learning.stages.default_workers", lambda: 1)
    monkeypatch.setenv("SIR_JAX_SHAPES", "1")
    monkeypatch.setenv("SIR_JAX_STEPS", "3")
    with untrained():  # it learns in cli/test_learn.py
        variables = run("own_pictures", monkeypatch)
    out = capsys.readouterr().out
    assert "blue-square.png,un carré bleu,ένα μπλε τετράγωνο" in out
    assert "voices = 16: 12 captions make 192 recordings" in out and "steps = 3: as asked" in out
    assert "of 6 pictures" in out and len(plt.get_fignums()) == 1
    assert [len(best) for best in variables["hits"]] == [5, 5, 5]
    assert len({hit.id for hit in variables["hits"][0]}) == 5
    typed = [line for line in out.splitlines() if line.endswith("it is blue-square.png")]
    assert [line.split(":")[0] for line in typed] == [
        "un carré bleu (fr)",
        "ένα μπλε τετράγωνο (el)",
    ]
