"""From published archives to fifty steps of training, live and from stored features."""

import json

import layouts
import pytest

from sir_jax.cli import main as cli
from sir_jax.data.corpus import open_corpus

CORPORA = {
    "flickr8k_audio/official": 19,
    "spoken_coco/karpathy": 20,
    "places_audio/2020": 4,
}
STEPS = 50


def losses_of(workdir) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]


def options_of(name, folder) -> list[str]:
    """Return the options of fifty steps on the corpus below a folder."""
    # Two pairs per batch, sometimes of the same image: then no row has a negative.
    return [
        f"--config=configs/unified.py:runlocal,corpus={name}",
        f"--config.data.data_dir={folder / 'data'}",
        "--config.data.batch_size=2",
        "--config.data.buckets=(8000,)",
        "--config.mesh.data=1",
        "--config.model.speech.layers=1",
        "--config.model.image.layers=1",
        "--config.model.fusion.layers=1",
        "--config.model.remat=none",
        "--config.model.dtype=float32",
        f"--config.train.steps={STEPS}",
        "--config.train.eval_every=0",
        "--config.train.checkpoint_every=0",
        "--config.optim.warmup_steps=5",
    ]


# At each change: the builders on the same archives in tests/data/builders, and both kinds of
# training in test_stored_features.py.
@pytest.mark.release
@pytest.mark.parametrize("name", CORPORA)
def test_fifty_steps_live_and_from_features(name, tmp_path, capsys):
    builder, _, _ = name.partition("/")
    layouts.write(builder, tmp_path / "archives")
    where = f"--data_dir={tmp_path / 'data'}"
    assert (
        cli.main(
            [
                "data",
                "prepare",
                name,
                f"--archives={tmp_path / 'archives'}",
                where,
                "--tolerance=1",
                "--workers=1",
            ]
        )
        == 0
    )
    corpus = open_corpus(name, tmp_path / "data")
    assert len(corpus.splits["train"].index) == CORPORA[name]
    config = options_of(name, tmp_path)
    assert cli.main(["train", *config, f"--workdir={tmp_path / 'live'}"]) == 0
    features = tmp_path / "features"
    assert cli.main(["data", "featurize", *config, f"--out={features}"]) == 0
    config.append(f"--config.data.features={features}")
    assert cli.main(["train", *config, f"--workdir={tmp_path / 'stored'}"]) == 0
    live, stored = losses_of(tmp_path / "live"), losses_of(tmp_path / "stored")
    assert len(live) == len(stored) == STEPS
    # The first step differs by the rounding of the features alone.
    assert stored[0] == pytest.approx(live[0], rel=2e-2)
    # The loss rises while the queue fills with negatives. It is finite, or training would stop.
    assert max(live + stored) < 20
    # Places Audio has two test splits, which are evaluated by name.
    split = "test_seen" if builder == "places_audio" else "test"
    capsys.readouterr()
    assert (
        cli.main(
            [
                "evaluate",
                f"--workdir={tmp_path / 'stored'}",
                f"--split={split}",
                where,
                "--which=last",
                "--rerank=2",
            ]
        )
        == 0
    )
    assert f"{name}, split {split}" in capsys.readouterr().out
