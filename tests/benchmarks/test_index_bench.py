"""The index benchmark: a small run, and the figures of its report."""

import json

import numpy as np
import pytest
from PIL import Image

from sir_jax.benchmarks import index
from sir_jax.config.presets import base_config
from sir_jax.data.media.image import load_image
from sir_jax.errors import UserError


def test_small_run(tmp_path, capsys, monkeypatch):
    # A model of width 32.
    config = base_config("tiny", "tiny")
    config.data.image_size = config.model.image.image_size = 16
    config.model.image.update(patch=8, width=32, layers=1, heads=2, mlp_width=64)
    config.model.embed_width = 32
    config.model.speech.update(
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        conv_width=(16, 16, 32),
        conv_kernel=(32, 8, 4),
        conv_stride=(16, 5, 4),
        pos_kernel=8,
        pos_groups=4,
    )
    config.model.head.update(heads=2, mlp_width=64)
    monkeypatch.setattr(index, "base_config", lambda *_: config)
    rng = np.random.default_rng(0)
    for number in range(21):
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    out = tmp_path / "out.json"
    argv = [f"--folder={tmp_path}", "--images=20", "--turns=3", "--batch=4", f"--json={out}"]
    assert index.main(argv) == 0
    printed = capsys.readouterr().out
    assert "20 pictures, model random-B/32" in printed and "3 turns of 8" in printed
    assert "search of 20: " in printed
    figures = json.loads(out.read_text())
    assert figures["pictures"] == 20 and figures["rates"].keys() == {"index", "encoder"}
    assert all(len(values) == 3 and min(values) > 0 for values in figures["seconds"].values())


def test_report(capsys):
    seconds = {"index": [0.5, 0.25, 0.2], "encoder": [0.25, 0.2, 0.18]}
    figures = index.report(seconds, 0.25, 0.2, 7)
    assert figures["ratio"] == pytest.approx(0.8)
    assert figures["rates"] == {"index": pytest.approx(4), "encoder": pytest.approx(5)}
    out = capsys.readouterr().out
    assert "indexing keeps 80.0 % of the encoder's rate" in out and "2.00 ms a query" in out
    assert "other processes took 25 %" in out


def test_folder_of_drawn_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "DISTINCT", 2)
    index.make_folder(tmp_path / "a", 5)
    files = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in files] == [f"{n:06d}.jpg" for n in range(5)]
    sizes = [load_image(path).size for path in files]
    assert sizes == [(500, 375), (640, 480)] * 2 + [(500, 375)]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--images=0"], "--images=0: must be at least 1"),
        (["--images=3"], "--turns=10: more than --images=3"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        index.main(options)
