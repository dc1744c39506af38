"""Every experiment file: loads, starts with its command, and its state can be built."""

import functools
from pathlib import Path

import jax
import pytest

from sir_jax.base_config import parse_arg
from sir_jax.models import build_model
from sir_jax.training.config import check_config, load_config
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.sharding import check_rules
from sir_jax.training.state import check_param_patterns, init_state

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*.py"))


def abstract_state(cfg):
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=build_model(cfg.model), tx=tx, cfg=cfg)
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", ":runlocal"])
def test_config_builds_its_state(path, arg):
    cfg = load_config(f"{path}{arg}")
    check_config(cfg)
    params = abstract_state(cfg).params
    check_rules(params)
    check_param_patterns(params, cfg)
    if arg:
        assert cfg.train.steps <= 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_first_line_is_the_command(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith(f'"""sir-jax train --config=configs/{path.name} --workdir=')


def test_argument_names_and_types():
    arg = parse_arg("runlocal,res=128", runlocal=False, res=224)
    assert (arg.runlocal, arg.res) == (True, 128)
    with pytest.raises(ValueError, match=r"'rse' is unknown; choose from \['res'\]"):
        parse_arg("rse=1", res=224)
