"""Every notebook is the pair of its script, holds no output, and runs."""

import csv
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from sir_jax.evaluation.ablate import COLUMNS, format_summary, read_results

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_its_scripts_pair_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    script = jupytext.read(path.with_suffix(".py"))
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (notebook, script)]
    assert cells[0] == cells[1]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not c.outputs and c.execution_count is None for c in code)


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
                ("+ all", ["", "reranked_", "summed_"]),
            ):
                for prefix in prefixes:
                    for metric in ("s2i_r1", "i2s_r1", "mean_r1", "mean_r5", "mean_r10"):
                        writer.writerow(
                            [ablation, seed, "test", prefix + metric, 0.5 + 0.01 * seed]
                        )
            for kind, value in (("cosine", 0.8), ("cosine_shuffled", 0.6), ("cosine_noisy", 0.1)):
                writer.writerow(["+ all", seed, "test", f"denoise_image_{kind}", value])
    return path


def execute(monkeypatch, table, figures):
    monkeypatch.setenv("SIR_JAX_ABLATIONS", str(table))
    monkeypatch.setenv("SIR_JAX_FIGURES", str(figures))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(ROOT / "notebooks" / "ablations.ipynb", as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    ).execute()
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_ablation_notebook_reads_a_table_into_numbers_and_figures(monkeypatch, table, tmp_path):
    printed = execute(monkeypatch, table, tmp_path)
    assert "results.csv: 69 rows, split test, seeds [0, 1, 2]" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["contrastive", "coarse", "3", *["51.0", "+-", "1.0"] * 5] in lines
    assert ["+", "all", "summed", "3", *["51.0", "+-", "1.0"] * 5] in lines
    for name in ("ablations.png", "denoising.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_readme_and_notebook_show_the_table_as_it_was_measured(monkeypatch, tmp_path):
    table = ROOT / "docs" / "ablations.csv"
    rows = read_results(table)
    lines = format_summary(rows, "test").splitlines()
    assert len(lines) == 11 and {row["seed"] for row in rows} == {"0", "1", "2"}
    assert "\n".join(lines) in (ROOT / "README.md").read_text()
    printed = execute(monkeypatch, table, tmp_path)
    assert "\n".join(lines) in printed and f"{len(rows)} rows" in printed
