"""Configs of old runs and releases are read as they were meant."""

import json
from pathlib import Path

import pytest
from tiny_models import tiny_config

from sir_jax.config.check import check_config
from sir_jax.config.command_line import load_config
from sir_jax.config.compare import compare_workdir, from_json, read_stored, to_json
from sir_jax.config.upgrade import ADDED, upgrade


def without(plain: dict, *names: str) -> dict:
    """Return a copy without some fields or sections, by dotted name."""
    plain = json.loads(json.dumps(plain))
    for name in names:
        *parents, last = name.split(".")
        target = plain
        for parent in parents:
            target = target[parent]
        del target[last]
    return plain


@pytest.fixture(scope="module")
def today():
    return to_json(tiny_config())


def test_what_is_of_today_stays_as_it_is(today):
    assert upgrade(today) == today


@pytest.mark.parametrize("name", ADDED)
def test_a_field_that_came_later_gets_its_default(today, name):
    old = without(today, name)
    new = to_json(from_json(upgrade(old)))
    check_config(from_json(new))
    if name != "model.fusion":  # whose default is not the tiny one
        assert new == today
    assert old == without(today, name)  # not changed


def test_the_oldest_run_loads(today):
    names = [n for n in ADDED if not any(n.startswith(f"{other}.") for other in ADDED)]
    old = without(today, *names)
    old["model"]["remat"] = True
    cfg = read_stored(old, "workdir")
    check_config(cfg)
    assert cfg.model.remat == "full" and cfg.loss.sic.weight == 1.0 and cfg.eval.rerank == 0
    assert cfg.data.trim_silence == "none"
    old["model"]["remat"] = False
    assert read_stored(old, "workdir").model.remat == "none"
    for before, today_ in ((True, "faint"), (False, "none"), ("speech", "speech")):
        old["data"]["trim_silence"] = before
        assert read_stored(old, "workdir").data.trim_silence == today_


def test_an_old_release_loads_without_what_came_later():
    path = Path(__file__).with_name("release_0_1_0.json")
    plain = json.loads(path.read_text())
    assert "attention" not in plain["model"]
    stored = {name: plain[name] for name in ("model", "data", "eval")}
    cfg = read_stored(stored, str(path))
    assert cfg.model.attention == "xla"
    # A release has no objective: nothing may take it for a run.
    assert set(cfg) == {"model", "data", "eval"}


def test_a_run_from_before_a_field_goes_on(today, tmp_path):
    old = without(today, "model.attention", "data.augment", "init.model")
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert compare_workdir(tiny_config(), tmp_path) == []


OLD_FILE = '''
"""As config files were written before there was `sir_jax.config`."""

from sir_jax import base_config as module
from sir_jax.base_config import CLIP_MEAN, PODS, base_config, for_gpu, for_pod, frozen_pair
from sir_jax.base_config import parse_arg, shrink

def get_config(arg=""):
    arg = parse_arg(arg, pod="")
    c = frozen_pair("tiny", "tiny", "spoken_scenes/x")
    assert c.data.image_mean == CLIP_MEAN and module.PODS is PODS
    return for_pod(for_gpu(shrink(c), ""), arg.pod)
'''


def test_config_files_of_old_load(tmp_path):
    path = tmp_path / "old.py"
    path.write_text(OLD_FILE)
    check_config(load_config(str(path)))
    assert load_config(f"{path}:pod=v5e:4x4").data.batch_size == 256
