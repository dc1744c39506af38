"""Every experiment file: loads, starts with its command, and its state can be built."""

import functools
from pathlib import Path

import jax
import pytest
import torch
import transformers

from sir_jax.base_config import parse_arg
from sir_jax.models import HUBERT_VARIANTS, HubertSpec, build_model
from sir_jax.pretrained import hubert
from sir_jax.training.config import check_config, load_config
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.sharding import check_rules
from sir_jax.training.state import check_param_patterns, init_state
from sir_jax.training.trees import split_tree

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


# Parameters of the released encoders, in millions as published, and exactly.
PUBLISHED = {
    # HuBERT (arXiv 2106.07447) rounds 94.4 to 95 and 315.4 to 317 with its training head.
    "hubert_base_clip_b32": dict(speech=94_370_944, image=87_456_000),
    "hubert_large_clip_l14": dict(speech=315_437_696, image=303_179_776),
    "hubert_large_vit_g": dict(speech=315_437_696, image=985_952_256, image_head=105_359_104),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_full_size_pairs_have_the_published_numbers_of_parameters(name):
    cfg = load_config(f"{CONFIGS[0].parent}/{name}.py")
    state = abstract_state(cfg)
    counts = {tower: count(state.params[tower]) for tower in PUBLISHED[name]}
    assert counts == PUBLISHED[name]
    frozen, trainable = split_tree(state.params, cfg.optim.freeze)[::-1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trainable)} == {"float32"}
    # Adam's two moments and its two counters, of trainable leaves only.
    assert count(state.opt_state) == 2 * count(trainable) + 2


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def on_meta(cls, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in cls(config).parameters())


def test_published_numbers_are_those_of_transformers():
    base = transformers.HubertConfig()
    large = transformers.HubertConfig(**hubert.config_from_spec(HubertSpec(
        **HUBERT_VARIANTS["large"])))  # fmt: skip
    # Less the vector that only masked pre-training reads.
    assert on_meta(transformers.HubertModel, base) - 768 == 94_370_944
    assert on_meta(transformers.HubertModel, large) - 1024 == 315_437_696
    assert on_meta(transformers.CLIPVisionModel, transformers.CLIPVisionConfig()) == 87_456_000
    assert on_meta(transformers.Blip2VisionModel, transformers.Blip2VisionConfig()) == 985_952_256


def test_argument_names_and_types():
    arg = parse_arg("runlocal,res=128", runlocal=False, res=224)
    assert (arg.runlocal, arg.res) == (True, 128)
    with pytest.raises(ValueError, match=r"'rse' is unknown; choose from \['res'\]"):
        parse_arg("rse=1", res=224)
