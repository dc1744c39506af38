"""A workdir as training leaves it, with the production model at width 32, and folders to search."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_models import filled, tiny_config

from sir_jax.data.media.synthesis.said import Said, Voice
from sir_jax.models import build_model
from sir_jax.objective.switches import fusion_tasks
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import init_state


def search_config():
    """Return the tiny config with buckets of seconds, as search has them."""
    return tiny_config(
        **{
            "data.corpus": "spoken_scenes/one-i16-d4-t4-c2-v64-p32-s7",
            "data.buckets": (24_000, 48_000),
            "model.embed_width": 32,
        }
    )


def save_run(cfg, folder: Path, seed: int = 0) -> Path:
    """Leave a workdir whose only checkpoint holds random parameters."""
    init = functools.partial(
        init_state,
        model=build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind)),
        tx=make_optimizer(cfg.optim, cfg.train.steps),
        cfg=cfg,
    )
    checkpoints = Checkpoints(folder)
    checkpoints.note_evaluation(3, {"val/mean_r1": 0.5})
    state = filled(jax.eval_shape(init, jax.random.key(seed)), seed)
    checkpoints.save(jax.device_put(state), 3, cfg)
    checkpoints.wait()
    checkpoints.close()
    return folder


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> Path:
    """Return a workdir of a model that cannot match."""
    return save_run(search_config(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def matching_workdir(tmp_path_factory) -> Path:
    """Return a workdir of all terms: teacher, queue, matching and denoising."""
    cfg = search_config()
    cfg.model.fusion.init_std = 32**-0.5
    cfg.loss.sic.queue = 8
    cfg.loss.sim.weight = cfg.loss.cmd.weight = 1.0
    return save_run(cfg, tmp_path_factory.mktemp("matching"), seed=1)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of eight pictures, some in a folder of their own."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    (root / "deeper").mkdir(parents=True)
    names = ["b.png", "a.jpg", "C.JPEG", "d.bmp", "e.gif", "f.webp", "deeper/g.png", "deeper/a.png"]
    for name in names:
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / "notes.txt").write_text("not a picture, and not called one")
    return root


@pytest.fixture
def query(tmp_path) -> Path:
    """Return a recording of one second."""
    path = tmp_path / "query.wav"
    soundfile.write(path, tone(16_000), 16_000, subtype="PCM_16")
    return path


def tone(samples: int, rate: int = 16_000) -> np.ndarray:
    time = np.arange(samples) / rate
    return 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 1330 * time)


@pytest.fixture(scope="session")
def make_tone():
    return tone


@pytest.fixture(scope="session")
def said():
    """Return a text as two voices say it."""
    clips = [(20_000 * tone(samples)).astype(np.int16) for samples in (9_000, 16_000)]
    clips[1][::3] = 0
    voices = [Voice("espeak", name, "en", "train") for name in ("en+m1", "en+f1")]
    return Said("a red fish", "en", tuple(voices), tuple(clips))


@pytest.fixture(scope="session")
def page_root(tmp_path_factory) -> Path:
    """Return a folder of nine pictures and five recordings, one picture a link that leads out."""
    rng, root = np.random.default_rng(1), tmp_path_factory.mktemp("page") / "root"
    outside = root.parent / "outside.png"
    (root / "pictures").mkdir(parents=True)
    (root / "speech").mkdir()
    names = [*(f"pictures/{n}.png" for n in range(6)), "pictures/a b#?%41.png", "pictures/ü.jpg"]
    for path in [*(root / name for name in names), outside]:
        noise = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        noise.resize((600, 450), Image.Resampling.BICUBIC).save(path)
    (root / "pictures" / "link.png").symlink_to(outside)
    for number in range(5):
        wave = tone(12_000 + 3_000 * number) * rng.uniform(0.2, 1, 12_000 + 3_000 * number)
        soundfile.write(root / "speech" / f"{number}.flac", wave, 16_000)
    return root


@pytest.fixture(scope="session")
def page_engine(page_root, matching_workdir):
    """Return the page's engine over an index of `page_root`."""
    from sir_jax.index.index import Index
    from sir_jax.inference.retriever import Retriever
    from sir_jax.inference.score import Score
    from sir_jax.page.engine import Engine

    model = Retriever.load(matching_workdir)
    # Of a weight of 1; the calibration lets the page show probabilities.
    model.score = Score(calibration=(0.2, 0.1, -1.0), fitted={"split": "val"})
    return Engine(model, Index.build(model, page_root))


@pytest.fixture(scope="session")
def serve_page():
    """Return a context manager that serves an engine and gives the server's address."""
    from sir_jax.page.screenshots import served

    return served
